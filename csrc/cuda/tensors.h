// What the operators of this folder do with tensors, through torch's stable ABI.
#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/macros/Macros.h>

#include <climits>
#include <optional>
#include <string>
#include <tuple>

#include "device.cuh"

namespace vtp::cuda {

inline Type type_of(const torch::stable::Tensor& x) {
  using torch::headeronly::ScalarType;
  const ScalarType type = x.scalar_type();
  STD_TORCH_CHECK(type == ScalarType::Float || type == ScalarType::Double || type == ScalarType::BFloat16 ||
                      type == ScalarType::Half,
                  "vtp_cuda: tensors must be float32, float64, bfloat16 or float16");
  return type == ScalarType::Float      ? Type::f32
         : type == ScalarType::Double   ? Type::f64
         : type == ScalarType::BFloat16 ? Type::bf16
                                        : Type::f16;
}

inline cudaStream_t current_stream(const torch::stable::Tensor& x) {
  void* stream = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(x.get_device_index(), &stream));
  return static_cast<cudaStream_t>(stream);
}

// Multiprocessors of the device.
inline int processors(const torch::stable::Tensor& x) {
  int count = 0;
  const cudaError_t code = cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, x.get_device_index());
  STD_TORCH_CHECK(code == cudaSuccess, "cudaDeviceGetAttribute: ", cudaGetErrorString(code));
  return count;
}

// A size as the kernels count it.
inline int as_int(int64_t size, const char* name) {
  STD_TORCH_CHECK(size >= 0 && size <= INT_MAX, "vtp_cuda: ", name, " is ", size, "; at most ", INT_MAX, " is possible");
  return static_cast<int>(size);
}

// A matrix whose rows are contiguous: itself or a copy.
inline torch::stable::Tensor rows_side_by_side(const torch::stable::Tensor& x) {
  return x.stride(1) == 1 || x.size(1) == 1 ? x : torch::stable::contiguous(x);
}

}  // namespace vtp::cuda
