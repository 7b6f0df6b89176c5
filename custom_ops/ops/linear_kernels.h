// The kernels of linear layers on every tier, for the operators and for calibration.
#pragma once

#include "kernels/linear.h"
#include "kernels/reduced_precision_linear.h"
#include "ops/dispatch.h"

namespace i2f {

I2F_KERNEL(PackedLinearSizeKernel, packed_linear_size)
I2F_KERNEL(PackLinearKernel, pack_linear)
I2F_KERNEL(NormLinearKernel, norm_linear)
I2F_KERNEL(LinearAddKernel, linear_add)
I2F_REDUCED_PRECISION_KERNEL(Product::kInt8, PackedInt8LinearSizeKernel, packed_int8_linear_size)
I2F_REDUCED_PRECISION_KERNEL(Product::kInt8, PackInt8LinearKernel, pack_int8_linear)
I2F_REDUCED_PRECISION_KERNEL(Product::kInt8, Int8LinearKernel, int8_linear)
I2F_REDUCED_PRECISION_KERNEL(Product::kBfloat16, PackedBf16LinearSizeKernel,
                             packed_bf16_linear_size)
I2F_REDUCED_PRECISION_KERNEL(Product::kBfloat16, PackBf16LinearKernel, pack_bf16_linear)
I2F_REDUCED_PRECISION_KERNEL(Product::kBfloat16, Bf16LinearKernel, bf16_linear)

// The thread that calls, for what is packed when a kernel is created.
inline Parallel one_thread() {
  return {nullptr, [](void*, size_t count, void (*task)(void*, size_t), void* user) {
            for (size_t i = 0; i < count; ++i) task(user, i);
          }};
}

}  // namespace i2f
