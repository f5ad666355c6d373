// One call of an attention operator: its tensors, checked, and the task that the kernels get.
#pragma once
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <vector>

#include "attention_task.h"
#include "isa.h"

namespace vtp {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;

constexpr float kNormEps = 1e-5f;  // as in the published VTP models
constexpr int64_t kWidest = 256;   // head width

AttentionFunctions functions_for(bool bf16) {
#if defined(__x86_64__)
  switch (isa()) {
    case Isa::avx512bf16:
      return bf16 ? attention_avx512bf16() : attention_avx512();
    case Isa::avx512:
      return attention_avx512();
    case Isa::avx2:
      return attention_avx2();
    case Isa::portable:
      break;
  }
#endif
  (void)bf16;
  return attention_portable();
}

// Rows of a tensor (B, N, H, d) or packed (T, H, d), or statistics (B, H, N) or packed (H, T).
AttentionRows rows_of(const Tensor& x, bool packed) {
  const int64_t size = x.element_size();
  char* data = static_cast<char*>(const_cast<void*>(x.const_data_ptr()));
  if (packed) return {data, 0, x.stride(1) * size, x.stride(0) * size};
  return {data, x.stride(0) * size, x.stride(2) * size, x.stride(1) * size};
}
AttentionRows statistics_of(const Tensor& x, bool packed) {
  const int64_t size = x.element_size();
  char* data = static_cast<char*>(const_cast<void*>(x.const_data_ptr()));
  if (packed) return {data, 0, x.stride(0) * size, x.stride(1) * size};
  return {data, x.stride(0) * size, x.stride(1) * size, x.stride(2) * size};
}

// The kernels need the values of a row beside each other.
Tensor with_rows(const Tensor& x) {
  const int64_t last = x.dim() - 1;
  return x.stride(last) == 1 || x.size(last) == 1 ? x : torch::stable::contiguous(x);
}

std::vector<float> weight_of(const OptionalTensor& weight, int64_t width, const char* name) {
  if (!weight) return {};
  const bool bf16 = weight->scalar_type() == ScalarType::BFloat16;
  STD_TORCH_CHECK(bf16 || weight->scalar_type() == ScalarType::Float, name, " must be float32 or bfloat16");
  STD_TORCH_CHECK(weight->is_cpu() && weight->dim() == 1 && weight->size(0) == width, name,
                  " must have shape (head width,) and be on the CPU");
  std::vector<float> values(width);
  const char* data = static_cast<const char*>(weight->const_data_ptr());
  for (int64_t d = 0; d < width; d++) {
    const char* at = data + d * weight->stride(0) * static_cast<int64_t>(weight->element_size());
    uint32_t bits = 0;
    if (bf16) {
      uint16_t half;
      std::memcpy(&half, at, 2);
      bits = static_cast<uint32_t>(half) << 16;
    } else {
      std::memcpy(&bits, at, 4);
    }
    std::memcpy(&values[d], &bits, 4);
  }
  return values;
}

std::vector<int64_t> starts_of(const OptionalTensor& cu_seqlens, int64_t tokens) {
  if (!cu_seqlens) return {};
  const bool wide = cu_seqlens->scalar_type() == ScalarType::Long;
  STD_TORCH_CHECK(wide || cu_seqlens->scalar_type() == ScalarType::Int, "cu_seqlens must be int32 or int64");
  STD_TORCH_CHECK(cu_seqlens->is_cpu() && cu_seqlens->dim() == 1 && cu_seqlens->size(0) > 0,
                  "cu_seqlens must be 1-D, on the CPU and not empty");
  const Tensor values = torch::stable::contiguous(*cu_seqlens);
  std::vector<int64_t> starts(values.size(0));
  for (size_t i = 0; i < starts.size(); i++)
    starts[i] = wide ? static_cast<const int64_t*>(values.const_data_ptr())[i]
                     : static_cast<const int32_t*>(values.const_data_ptr())[i];
  STD_TORCH_CHECK(
      starts.front() == 0 && starts.back() == tokens && std::is_sorted(starts.begin(), starts.end()),
      "cu_seqlens must rise from 0 to ", tokens, " tokens");
  return starts;
}

void check_like(const Tensor& x, const Tensor& q, const char* name) {
  bool same = x.is_cpu() && x.dim() == q.dim() && x.scalar_type() == q.scalar_type();
  for (int64_t i = 0; same && i < q.dim(); i++) same = x.size(i) == q.size(i);
  STD_TORCH_CHECK(same, name, " must have the shape, dtype and device of q");
}

void check_statistics(const Tensor& lse, const AttentionTask& task, int64_t tokens, bool packed) {
  bool fits = lse.is_cpu() && lse.scalar_type() == ScalarType::Float && lse.dim() == (packed ? 2 : 3);
  fits = fits && lse.size(lse.dim() - 1) == tokens && lse.size(lse.dim() - 2) == task.heads;
  STD_TORCH_CHECK(fits && (packed || lse.size(0) == task.sequences), "lse must be float32 on the CPU, ",
                  packed ? "(H, T)" : "(B, H, N)");
}

// The task together with what it points to.
struct Call {
  std::vector<int64_t> starts;
  std::vector<float> q_norm, k_norm;
  std::vector<Tensor> tensors;
  AttentionTask task{};
  AttentionFunctions functions{};

  Call(const Tensor& q, const Tensor& k, const Tensor& v, const OptionalTensor& q_weight,
       const OptionalTensor& k_weight, const OptionalTensor& cos, const OptionalTensor& sin,
       const OptionalTensor& cu_seqlens, double scale) {
    const bool packed = cu_seqlens.has_value(), bf16 = q.scalar_type() == ScalarType::BFloat16;
    STD_TORCH_CHECK(q.is_cpu() && (bf16 || q.scalar_type() == ScalarType::Float),
                    "q must be float32 or bfloat16 on the CPU");
    STD_TORCH_CHECK(q.dim() == (packed ? 3 : 4), "q must be ", packed ? "(T, H, d)" : "(B, N, H, d)");
    check_like(k, q, "k");
    check_like(v, q, "v");
    task.width = q.size(q.dim() - 1);
    task.heads = q.size(q.dim() - 2);
    STD_TORCH_CHECK(task.width >= 1 && task.width <= kWidest, "the head width must be 1 to ", kWidest);
    const int64_t tokens = packed ? q.size(0) : q.size(1);
    starts = starts_of(cu_seqlens, tokens);
    q_norm = weight_of(q_weight, task.width, "q_norm");
    k_norm = weight_of(k_weight, task.width, "k_norm");
    task.sequences = packed ? static_cast<int64_t>(starts.size()) - 1 : q.size(0);
    task.tokens = packed ? 0 : tokens;
    task.starts = packed ? starts.data() : nullptr;
    task.bf16 = bf16;
    task.scale = static_cast<float>(scale);
    task.eps = kNormEps;
    task.q_norm = q_weight ? q_norm.data() : nullptr;
    task.k_norm = k_weight ? k_norm.data() : nullptr;
    task.q = rows(q), task.k = rows(k), task.v = rows(v);
    if (cos) tables(*cos, sin, tokens);
    functions = functions_for(bf16);
  }

  AttentionRows rows(const Tensor& x) {
    tensors.push_back(with_rows(x));
    return rows_of(tensors.back(), task.starts != nullptr);
  }

  void tables(const Tensor& cos, const OptionalTensor& sin, int64_t tokens) {
    const bool bf16 = cos.scalar_type() == ScalarType::BFloat16;
    STD_TORCH_CHECK(bf16 || cos.scalar_type() == ScalarType::Float, "cos must be float32 or bfloat16");
    STD_TORCH_CHECK(sin.has_value() && cos.is_cpu() && cos.dim() == 2 && cos.size(1) == task.width &&
                        task.width % 2 == 0 && cos.size(0) <= tokens &&
                        (!task.starts || cos.size(0) == tokens),
                    "cos must be (positions, head width) with an even head width and no more positions than "
                    "tokens, packed as many as tokens");
    check_like(*sin, cos, "sin");
    tensors.push_back(torch::stable::contiguous(cos));
    const char* cosine = static_cast<const char*>(tensors.back().const_data_ptr());
    tensors.push_back(torch::stable::contiguous(*sin));
    task.rope = {cosine, static_cast<const char*>(tensors.back().const_data_ptr()), cos.size(0), bf16};
  }

  int64_t tokens_of(int64_t sequence) const {
    return task.starts ? starts[sequence + 1] - starts[sequence] : task.tokens;
  }
};

}  // namespace
}  // namespace vtp
