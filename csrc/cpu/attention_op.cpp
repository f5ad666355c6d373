// vtp_cpu::attention_forward and attention_backward: outputs and memory; attention_call.h checks the inputs,
// attention_share.h deals the work to threads.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <tuple>
#include <vector>

#include "attention_call.h"
#include "attention_share.h"

namespace vtp {
namespace {

std::tuple<Tensor, Tensor> attention_forward(Tensor q, Tensor k, Tensor v, OptionalTensor q_norm,
                                             OptionalTensor k_norm, OptionalTensor cos, OptionalTensor sin,
                                             OptionalTensor cu_seqlens, double scale) {
  Call call(q, k, v, q_norm, k_norm, cos, sin, cu_seqlens, scale);
  const bool packed = cu_seqlens.has_value();
  Tensor out = torch::stable::new_empty(q, q.sizes());
  const int64_t heads = call.task.heads;
  const std::vector<int64_t> sizes =
      packed ? std::vector<int64_t>{heads, q.size(0)} : std::vector<int64_t>{q.size(0), heads, q.size(1)};
  Tensor lse = torch::stable::new_empty(q, sizes, ScalarType::Float);
  call.task.out = rows_of(out, packed);
  call.task.lse = statistics_of(lse, packed);
  const std::vector<Piece> pieces = pieces_of(call, true);
  const size_t bytes = call.functions.forward_scratch(call.task, longest(pieces, call));
  share(pieces, bytes, [&](const Piece& piece, void* scratch) {
    call.functions.forward(call.task, piece.sequence, piece.head, piece.first, piece.last, scratch);
  });
  return {out, lse};
}

// Sums each unit's part in one fixed order, in double; `which` is 0 for q_norm, 1 for k_norm. Empty without a
// weight.
Tensor norm_gradient(const Tensor& like, const float* weight, const std::vector<float>& parts, size_t which,
                     size_t width) {
  std::vector<double> sums(weight ? width : 0, 0.0);
  for (size_t unit = which * width; unit < parts.size(); unit += 2 * width)
    for (size_t d = 0; d < sums.size(); d++) sums[d] += parts[unit + d];
  const std::vector<int64_t> sizes{static_cast<int64_t>(sums.size())};
  Tensor gradient = torch::stable::new_empty(like, sizes, ScalarType::Float);
  std::copy(sums.begin(), sums.end(), static_cast<float*>(gradient.mutable_data_ptr()));
  return gradient;
}

std::tuple<Tensor, Tensor, Tensor> attention_backward(Tensor grad_out, OptionalTensor grad_lse, Tensor q,
                                                      Tensor k, Tensor v, Tensor out, Tensor lse,
                                                      OptionalTensor q_norm, OptionalTensor k_norm,
                                                      OptionalTensor cos, OptionalTensor sin,
                                                      OptionalTensor cu_seqlens, double scale) {
  Call call(q, k, v, q_norm, k_norm, cos, sin, cu_seqlens, scale);
  AttentionTask& task = call.task;
  const bool packed = cu_seqlens.has_value();
  check_like(grad_out, q, "grad_out");
  check_like(out, q, "out");
  check_statistics(lse, task, packed ? q.size(0) : q.size(1), packed);
  task.grad_out = call.rows(grad_out);
  task.out = call.rows(out);
  task.lse = statistics_of(lse, packed);
  if (grad_lse) {
    check_like(*grad_lse, lse, "grad_lse");
    task.grad_lse = statistics_of(*grad_lse, packed);
  }
  // The three gradients lie side by side in memory, as queries, keys and values of one projection do.
  std::vector<int64_t> sizes(q.sizes().begin(), q.sizes().end());
  sizes.insert(sizes.end() - 2, 3);
  Tensor gradient = torch::stable::new_empty(q, sizes);
  const int64_t step = task.heads * task.width * q.element_size(), token = 3 * step;
  char* data = static_cast<char*>(gradient.mutable_data_ptr());
  const int64_t sequence = packed ? 0 : q.size(1) * token, head = task.width * q.element_size();
  task.grad_q = {data, sequence, head, token};
  task.grad_k = {data + step, sequence, head, token};
  task.grad_v = {data + 2 * step, sequence, head, token};
  std::vector<float> parts(task.q_norm || task.k_norm ? task.sequences * task.heads * 2 * task.width : 0);
  task.norm_parts = parts.empty() ? nullptr : parts.data();
  const std::vector<Piece> pieces = pieces_of(call, false);
  const size_t bytes = call.functions.backward_scratch(task, longest(pieces, call));
  share(pieces, bytes, [&](const Piece& piece, void* scratch) {
    call.functions.backward(task, piece.sequence, piece.head, scratch);
  });
  return {gradient, norm_gradient(q, task.q_norm, parts, 0, task.width),
          norm_gradient(q, task.k_norm, parts, 1, task.width)};
}

}  // namespace
}  // namespace vtp

STABLE_TORCH_LIBRARY_FRAGMENT(vtp_cpu, m) {
  m.def(
      "attention_forward(Tensor q, Tensor k, Tensor v, Tensor? q_norm, Tensor? k_norm, Tensor? cos, Tensor? "
      "sin, "
      "Tensor? cu_seqlens, float scale) -> (Tensor out, Tensor lse)");
  m.def(
      "attention_backward(Tensor grad_out, Tensor? grad_lse, Tensor q, Tensor k, Tensor v, Tensor out, "
      "Tensor lse, "
      "Tensor? q_norm, Tensor? k_norm, Tensor? cos, Tensor? sin, Tensor? cu_seqlens, float scale) "
      "-> (Tensor grad_qkv, Tensor grad_q_norm, Tensor grad_k_norm)");
}

STABLE_TORCH_LIBRARY_IMPL(vtp_cpu, CPU, m) {
  m.impl("attention_forward", TORCH_BOX(&vtp::attention_forward));
  m.impl("attention_backward", TORCH_BOX(&vtp::attention_backward));
}
