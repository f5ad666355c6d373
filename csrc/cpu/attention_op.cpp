// vtp_cpu::attention_forward and attention_backward: checks, memory, and the dealing of work to threads.
//
// A piece of work is one (sequence, head), in the forward also a part of its queries. No two pieces write the
// same memory and none depends on who runs it, so results have the same bits for any number of threads.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <numeric>
#include <optional>
#include <tuple>
#include <vector>

#include "attention_task.h"
#include "isa.h"

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using vtp::AttentionFunctions;
using vtp::AttentionRows;
using vtp::AttentionTask;
using OptionalTensor = std::optional<Tensor>;

constexpr float kNormEps = 1e-5f;         // as in the published VTP models
constexpr int64_t kWidest = 256;          // head width
constexpr int64_t kPartQueries = 256;     // fewest queries of a part
constexpr size_t kScratchKept = 8 << 20;  // bytes a thread keeps between calls

AttentionFunctions functions_for(bool bf16) {
#if defined(__x86_64__)
  switch (vtp::isa()) {
    case vtp::Isa::avx512bf16:
      return bf16 ? vtp::attention_avx512bf16() : vtp::attention_avx512();
    case vtp::Isa::avx512:
      return vtp::attention_avx512();
    case vtp::Isa::avx2:
      return vtp::attention_avx2();
    case vtp::Isa::portable:
      break;
  }
#endif
  (void)bf16;
  return vtp::attention_portable();
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

struct Piece {
  int64_t sequence, head, first, last;
};

// The pieces, those of the longest sequences first. With few heads the forward's are cut into parts of
// queries.
std::vector<Piece> pieces_of(const Call& call, bool parts) {
  std::vector<int64_t> order(call.task.sequences);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int64_t a, int64_t b) { return call.tokens_of(a) > call.tokens_of(b); });
  const int64_t units = std::max<int64_t>(1, call.task.sequences * call.task.heads);
  const int64_t wanted = parts ? (2 * int64_t{torch::stable::get_num_threads()} + units - 1) / units : 1;
  std::vector<Piece> pieces;
  for (const int64_t sequence : order) {
    const int64_t tokens = call.tokens_of(sequence);
    if (tokens == 0) continue;
    const int64_t count = std::clamp<int64_t>(tokens / kPartQueries, 1, wanted);
    for (int64_t head = 0; head < call.task.heads; head++)
      for (int64_t part = 0; part < count; part++)
        pieces.push_back({sequence, head, tokens * part / count, tokens * (part + 1) / count});
  }
  return pieces;
}

// Aligned memory of a thread, kept between calls unless it is large.
struct Scratch {
  struct Free {
    void operator()(void* memory) const { std::free(memory); }
  };
  std::unique_ptr<void, Free> memory;
  size_t bytes = 0;

  void* need(size_t wanted) {
    if (wanted > bytes) {
      memory.reset();
      bytes = (wanted + 63) / 64 * 64;
      memory.reset(std::aligned_alloc(64, bytes));
      if (!memory) bytes = 0;
    }
    return memory.get();
  }
  void release_large() {
    if (bytes <= kScratchKept) return;
    memory.reset();
    bytes = 0;
  }
};

// Calls work(piece, scratch) for all pieces, on torch's threads, each taking the next one that is left.
template <class Work>
void share(const std::vector<Piece>& pieces, size_t scratch_bytes, const Work& work) {
  const int64_t count = static_cast<int64_t>(pieces.size());
  const int64_t workers = std::min<int64_t>(torch::stable::get_num_threads(), count);
  std::atomic<int64_t> next{0};
  std::atomic<bool> failed{false};
  torch::stable::parallel_for(0, workers, 1, [&](int64_t, int64_t) {
    thread_local Scratch scratch;
    void* memory = scratch.need(scratch_bytes);
    if (!memory) failed = true;
    for (int64_t i; memory && (i = next.fetch_add(1, std::memory_order_relaxed)) < count;)
      work(pieces[i], memory);
    scratch.release_large();
  });
  STD_TORCH_CHECK(!failed, "attention: no memory for ", scratch_bytes, " bytes of scratch a thread");
}

int64_t longest(const std::vector<Piece>& pieces, const Call& call) {
  return pieces.empty() ? 0 : call.tokens_of(pieces.front().sequence);
}

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
  m.impl("attention_forward", TORCH_BOX(&attention_forward));
  m.impl("attention_backward", TORCH_BOX(&attention_backward));
}
