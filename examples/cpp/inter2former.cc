// Sums and products round one by one (-ffp-contract=off): masks are those of the Python runtime,
// pixel by pixel.
#include "inter2former.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <sstream>
#include <stdexcept>

namespace {

constexpr int kSchema = 5;  // of manifest.json

float mix(float a, float b, float share) { return a * (1 - share) + b * share; }

// For each of `target` pixels: which two of `source` pixels it mixes, and how much of the second.
struct Taps {
  std::vector<int64_t> lower, upper;
  std::vector<float> share;

  Taps(int64_t source, int64_t target) {
    const double step = static_cast<float>(source) / static_cast<float>(target);
    for (int64_t i = 0; i < target; ++i) {
      const auto position =
          static_cast<float>(std::max(step * (static_cast<double>(i) + 0.5) - 0.5, 0.0));
      lower.push_back(static_cast<int64_t>(position));
      upper.push_back(std::min(lower.back() + 1, source - 1));
      share.push_back(position - static_cast<float>(lower.back()));
    }
  }
};

// Resizes a square of side `source`, whose pixels at(row, column, channel) gives, to the first
// height x width pixels of one of side `target`; along the row first, then down the column.
template <class At>
std::vector<float> resize(int64_t source, int64_t target, int64_t height, int64_t width,
                          int channels, const At& at) {
  const Taps taps(source, target);
  std::vector<float> result, rows[2];
  result.reserve(static_cast<size_t>(height * width * channels));
  int64_t kept[2] = {-1, -1};
  for (int64_t y = 0; y < height; ++y) {
    for (int i = 0; i < 2; ++i) {
      const int64_t row = i == 0 ? taps.lower[y] : taps.upper[y];
      if (i == 0 && kept[1] == row) {
        std::swap(rows[0], rows[1]);
        std::swap(kept[0], kept[1]);
      }
      if (kept[i] == row) continue;
      rows[i].clear();
      for (int64_t x = 0; x < width; ++x) {
        for (int c = 0; c < channels; ++c) {
          rows[i].push_back(
              mix(at(row, taps.lower[x], c), at(row, taps.upper[x], c), taps.share[x]));
        }
      }
      kept[i] = row;
    }
    for (size_t x = 0; x < rows[0].size(); ++x)
      result.push_back(mix(rows[0][x], rows[1][x], taps.share[y]));
  }
  return result;
}

Ort::MemoryInfo memory() {
  return Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
}

// A tensor over `values`, which must outlive it.
template <class T>
Ort::Value tensor(std::vector<T>& values, const std::vector<int64_t>& shape) {
  return Ort::Value::CreateTensor<T>(memory(), values.data(), values.size(), shape.data(),
                                     shape.size());
}

uint8_t label(const Json& value) { return static_cast<uint8_t>(value.number); }

}  // namespace

Graph::Graph(const Ort::Env& env, const std::filesystem::path& file,
             const Ort::SessionOptions& options)
    : session_(env, file.c_str(), options) {
  Ort::AllocatorWithDefaultOptions allocator;
  for (size_t i = 0; i < session_.GetInputCount(); ++i) {
    inputs_.emplace_back(session_.GetInputNameAllocated(i, allocator).get());
  }
  for (size_t i = 0; i < session_.GetOutputCount(); ++i) {
    outputs_.emplace_back(session_.GetOutputNameAllocated(i, allocator).get());
  }
}

Tensors Graph::run(const Tensors& tensors) {
  Ort::IoBinding binding(session_);
  for (const std::string& name : inputs_) binding.BindInput(name.c_str(), tensors.at(name));
  for (const std::string& name : outputs_) binding.BindOutput(name.c_str(), memory());
  session_.Run(Ort::RunOptions{}, binding);
  std::vector<Ort::Value> values = binding.GetOutputValues();
  Tensors result;
  for (size_t i = 0; i < values.size(); ++i) result.emplace(outputs_[i], std::move(values[i]));
  return result;
}

Segmenter::Segmenter(const std::filesystem::path& bundle, const std::string& operators,
                     int threads) {
  std::ifstream file(bundle / "manifest.json");
  if (!file) throw std::runtime_error(bundle.string() + " is no bundle: it holds no manifest.json");
  std::ostringstream text;
  text << file.rdbuf();
  manifest_ = JsonReader::read(text.str());
  if (manifest_["schema_version"].number != kSchema || manifest_["family"].text != "inter2former") {
    throw std::runtime_error(
        "this program knows schema 5 and the family inter2former, the bundle is of another");
  }
  size_ = static_cast<int64_t>(manifest_["size"].number);

  Ort::SessionOptions options;
  options.SetIntraOpNumThreads(threads);
  if (!operators.empty()) options.RegisterCustomOpsLibrary(operators.c_str());
  const auto& decoders = manifest_["decoders"].members;
  if (decoders.empty()) throw std::runtime_error("manifest.json: there is no decoder");
  const Json& decoder = decoders.front().second;
  const auto load = [&](const Json& graph) {
    return std::make_unique<Graph>(env_, bundle / graph["file"].text, options);
  };
  encoder_ = load(manifest_["encoder"]["graph"]);
  prepare_ = load(decoder["prepare"]);
  click_ = load(decoder["click"]);
}

Session Segmenter::open(const Picture& picture) {
  const Json& rules = manifest_["preprocessing"];
  const auto multiple = static_cast<int64_t>(rules["pad_multiple"].number);
  const int64_t longer = std::max(picture.width, picture.height);
  const int64_t side = (longer + multiple - 1) / multiple * multiple;  // of the padded square
  std::vector<float> padding;
  for (const Json& channel : rules["pad_rgb"].items)
    padding.push_back(static_cast<float>(channel.number));
  std::vector<float> pixels =
      resize(side, size_, size_, size_, 3, [&](int64_t row, int64_t column, int channel) -> float {
        if (row >= picture.height || column >= picture.width)
          return padding[static_cast<size_t>(channel)];
        return picture.pixels[static_cast<size_t>((row * picture.width + column) * 3 + channel)];
      });
  // What a graph takes of those before it bears the same names there.
  Tensors tensors;
  tensors.emplace("image", tensor(pixels, {size_, size_, 3}));
  tensors.merge(encoder_->run(tensors));
  tensors.merge(prepare_->run(tensors));
  tensors.erase(
      "image");  // which is only a view of the pixels here; the click graph does not take it
  return Session(*this, std::move(tensors), picture.width, picture.height, side);
}

Session::Session(Segmenter& segmenter, Tensors tensors, int64_t width, int64_t height, int64_t side)
    : segmenter_(&segmenter),
      tensors_(std::move(tensors)),
      width_(width),
      height_(height),
      side_(side) {}

Mask Session::click(double x, double y, bool positive) {
  if (!(x >= 0 && x < static_cast<double>(width_) && y >= 0 && y < static_cast<double>(height_))) {
    throw std::runtime_error("a click lies outside the picture");
  }
  const int64_t size = segmenter_->size_;
  const double scale = static_cast<double>(size) / static_cast<double>(side_);
  const auto place = [=](double v) { return std::min(static_cast<int64_t>(scale * v), size - 1); };
  const Json& rules = segmenter_->manifest_["prompts"]["labels"]["click"];
  const auto radius = static_cast<int64_t>(rules["radius"].number);
  const uint8_t painted = label(rules[positive ? "positive" : "negative"]);
  const int64_t row = place(y), column = place(x);

  Step step{folded_labels(), {}, 0, 0, 0, 0};
  for (int64_t v = std::max<int64_t>(row - radius, 0); v <= std::min(row + radius, size - 1); ++v) {
    for (int64_t u = std::max<int64_t>(column - radius, 0);
         u <= std::min(column + radius, size - 1); ++u) {
      const int64_t distance = (v - row) * (v - row) + (u - column) * (u - column);
      if (distance <= radius * radius) step.labels[static_cast<size_t>(v * size + u)] = painted;
    }
  }

  tensors_.insert_or_assign("labels", tensor(step.labels, {size, size}));
  Tensors decoded = segmenter_->click_->run(tensors_);
  tensors_.erase("labels");  // a view of the step's
  const auto* box = decoded.at("box").GetTensorData<int64_t>();
  step.left = box[0], step.top = box[1], step.right = box[2], step.bottom = box[3];
  const Ort::Value& logits = decoded.at("box_logits");
  const size_t count = logits.GetTensorTypeAndShapeInfo().GetElementCount();
  step.logits.assign(logits.GetTensorData<float>(), logits.GetTensorData<float>() + count);
  steps_.push_back(std::move(step));
  return mask();
}

Mask Session::undo() {
  if (steps_.empty()) throw std::runtime_error("there is no click to undo");
  steps_.pop_back();
  return mask();
}

// The label map of the last click, moved one step towards its prediction.
std::vector<uint8_t> Session::folded_labels() const {
  const Json& rules = segmenter_->manifest_["prompts"]["labels"];
  const int64_t size = segmenter_->size_;
  if (steps_.empty())
    return std::vector<uint8_t>(static_cast<size_t>(size * size), label(rules["start"]));
  const Step& last = steps_.back();
  const std::vector<Json>&background = rules["prediction"]["background"].items,
        &foreground = rules["prediction"]["foreground"].items;
  std::vector<uint8_t> folded = last.labels;
  for (uint8_t& each : folded) each = label(background.at(each));
  size_t i = 0;
  for (int64_t row = last.top; row < last.bottom; ++row) {
    for (int64_t column = last.left; column < last.right; ++column) {
      const auto at = static_cast<size_t>(row * size + column);
      if (last.logits.at(i++) > 0) folded.at(at) = label(foreground.at(last.labels[at]));
    }
  }
  return folded;
}

Mask Session::mask() const {
  if (steps_.empty()) return Mask(static_cast<size_t>(width_ * height_), 0);
  const Json& rules = segmenter_->manifest_["postprocessing"];
  const auto outside = static_cast<float>(rules["outside_logit"].number);
  const double threshold = rules["threshold"].number;
  const Step& last = steps_.back();
  const std::vector<float> logits =
      resize(segmenter_->size_, side_, height_, width_, 1, [&](int64_t row, int64_t column, int) {
        const bool inside =
            row >= last.top && row < last.bottom && column >= last.left && column < last.right;
        const int64_t at = (row - last.top) * (last.right - last.left) + column - last.left;
        return inside ? last.logits[static_cast<size_t>(at)] : outside;
      });
  Mask mask;
  mask.reserve(logits.size());
  for (const float logit : logits) mask.push_back(logit > threshold ? 1 : 0);
  return mask;
}
