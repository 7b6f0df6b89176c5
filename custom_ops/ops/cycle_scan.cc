// CycleScan: the selective scan of state-space modules, several passes end to end (OPERATORS.md).

#include "kernels/cycle_scan.h"

#include "ops/operator.h"

namespace i2f {

I2F_KERNEL(CycleScanKernel, cycle_scan)

namespace {

class CycleScan final : public Kernel {
 public:
  explicit CycleScan(const KernelInfo& info) {
    const std::vector<int64_t> none;
    lengths_ = info.attribute("lengths", none);
    expect(!lengths_.empty(), "attribute lengths of at least one sequence", "none");
    for (const int64_t length : lengths_) {
      expect(length >= 1 && length <= kMaxDim - tokens_,
             "attribute lengths of at least 1 token each, and at most " + std::to_string(kMaxDim) +
                 " together",
             std::to_string(length));
      tokens_ += length;
    }
    if (info.known(kRate, kRate + 1)) {
      check_rate(info.get<float>(kRate, "rate", {"C", "N"}));
      checked_ = true;
    }
  }

  void compute(KernelContext& context) const override {
    const auto u = context.get<float>(0, "u", {"T", "C"});
    const auto rate = context.get<float>(kRate, "rate", {{"C", u.dim(1)}, "N"});
    const int64_t length = u.dim(0), channels = u.dim(1), states = rate.dim(1);
    const std::string sizes =
        "C = " + std::to_string(channels) + " and N = " + std::to_string(states);
    expect(channels >= 1 && states >= 1, "C >= 1 and N >= 1", sizes);
    expect(channels + 2 * states <= kMaxDim, "C + 2*N of at most " + std::to_string(kMaxDim),
           sizes);
    const auto projected =
        context.get<float>(1, "projected", {{"T", length}, {"C + 2*N", channels + 2 * states}});
    const Dim c("C", channels);
    const auto skip = context.get<float>(3, "skip", {c});
    const auto bias = context.get<float>(4, "bias", {c});
    const auto gamma = context.get<float>(5, "gamma", {c, "R"});
    expect(gamma.dim(1) >= 1, "gamma [C, R] with R >= 1", "R = 0");
    expect(length % tokens_ == 0,
           "T to be a multiple of the sequences' " + std::to_string(tokens_) + " tokens",
           std::to_string(length));
    if (!checked_) check_rate(rate);
    const CycleScanShape shape{lengths_.data(),  static_cast<int64_t>(lengths_.size()),
                               length / tokens_, channels,
                               states,           gamma.dim(1)};
    const CycleScanWeights weights{rate.data, skip.data, bias.data, gamma.data};
    kernels::cycle_scan(shape, u.data, projected.data, weights,
                        context.output<float>(0, {length, channels}), context.memory(),
                        context.parallel());
  }

 private:
  static constexpr size_t kRate = 2;

  // States never grow: with a positive rate, exponentials would leave the range of float32.
  static void check_rate(const Tensor<float>& rate) {
    constexpr float kInfinity = std::numeric_limits<float>::infinity();
    const int64_t count = rate.dim(0) * rate.dim(1);
    for (int64_t i = 0; i < count; ++i) {
      const float x = rate.data[i];
      expect(!(x > 0) && x != -kInfinity, "rate of at most 0, not infinite", std::to_string(x));
    }
  }

  std::vector<int64_t> lengths_;
  int64_t tokens_ = 0;  // of an image
  bool checked_ = false;
};

const Registration kCycleScan(
    {"CycleScan", 6, false, {kElementType<float>}, create_kernel<CycleScan>});

}  // namespace
}  // namespace i2f
