// The operator vtp_cuda::attention_forward.
#include "attention_launch.cuh"
#include "tensors.h"

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using namespace vtp::cuda;

Strides strides_of(const Tensor& x) {
  if (x.dim() == 3) return {0, x.stride(1), x.stride(0)};
  return {x.stride(0), x.stride(1), x.stride(2)};
}

// Itself if each of its rows begins at a multiple of 16 bytes, else a copy.
Tensor aligned(const Tensor& x) {
  const auto bytes = static_cast<int64_t>(x.element_size());
  bool fits = x.stride(x.dim() - 1) == 1 && reinterpret_cast<uintptr_t>(x.const_data_ptr()) % 16 == 0;
  for (int64_t i = 0; i + 1 < x.dim(); ++i) fits = fits && x.stride(i) * bytes % 16 == 0;
  return fits ? x : torch::stable::clone(torch::stable::contiguous(x));
}

// In float32 and contiguous.
std::optional<Tensor> as_float(const std::optional<Tensor>& x) {
  if (!x.has_value()) return std::nullopt;
  return torch::stable::contiguous(torch::stable::to(*x, ScalarType::Float));
}

const void* data_of(const std::optional<Tensor>& x) { return x.has_value() ? x->const_data_ptr() : nullptr; }

void check_inputs(const Tensor& q, const Tensor& k, const Tensor& v, bool packed) {
  STD_TORCH_CHECK(q.dim() == (packed ? 3 : 4), "attention_forward: q must be (B, H, N, d), packed (T, H, d)");
  for (const Tensor& x : {k, v}) {
    STD_TORCH_CHECK(x.is_cuda() && x.get_device() == q.get_device() && x.scalar_type() == q.scalar_type() &&
                        x.dim() == q.dim(),
                    "attention_forward: q, k and v differ in dtype, device or dimensions");
    for (int64_t i = 0; i < q.dim(); ++i) {
      STD_TORCH_CHECK(x.size(i) == q.size(i), "attention_forward: q, k and v differ in shape");
    }
  }
  STD_TORCH_CHECK(type_of(q) != Type::f64, "attention_forward: has no float64");
  STD_TORCH_CHECK(fits_attention(as_int(q.size(q.dim() - 1), "the head width")),
                  "attention_forward: the head width must be 32, 64, 96 or 128");
}

// Normed and rotated copies of queries and keys, (B, N, H, d) or (T, H, d) in memory, with the dimensions of q.
std::tuple<Tensor, Tensor> prepared(const Tensor& q, const Tensor& k, const std::optional<Tensor>& q_norm,
                                    const std::optional<Tensor>& k_norm, const std::optional<Tensor>& cos,
                                    const std::optional<Tensor>& sin, double eps, cudaStream_t stream) {
  const bool packed = q.dim() == 3;
  const auto q_weight = as_float(q_norm), k_weight = as_float(k_norm);
  const bool is_wide = cos.has_value() && cos->scalar_type() == ScalarType::Double;
  const auto cosines = is_wide ? as_float(cos) : cos, sines = is_wide ? as_float(sin) : sin;
  const int64_t batch = packed ? 1 : q.size(0), heads = q.size(1), tokens = packed ? q.size(0) : q.size(2);
  const int64_t width = q.size(q.dim() - 1);
  for (const auto& weight : {q_weight, k_weight}) {
    STD_TORCH_CHECK(!weight.has_value() || weight->numel() == width, "attention_forward: a norm weight must be (d,)");
  }
  int64_t positions = 0;
  if (cosines.has_value()) {
    positions = cosines->size(0);
    STD_TORCH_CHECK(sines.has_value() && cosines->is_contiguous() && sines->is_contiguous() &&
                        cosines->dim() == 2 && cosines->size(1) == width && positions <= tokens &&
                        sines->numel() == cosines->numel() && sines->scalar_type() == cosines->scalar_type(),
                    "attention_forward: cos and sin must be contiguous, (P, d), P <= N, of one dtype");
  }
  Tensor to[2] = {torch::stable::new_empty(q, {batch, tokens, heads, width}),
                  torch::stable::new_empty(k, {batch, tokens, heads, width})};
  const Rows rows{{q.const_data_ptr(), k.const_data_ptr()},
                  {to[0].mutable_data_ptr(), to[1].mutable_data_ptr()},
                  {strides_of(q), strides_of(k)},
                  {static_cast<const float*>(data_of(q_weight)), static_cast<const float*>(data_of(k_weight))},
                  data_of(cosines),
                  data_of(sines),
                  cosines.has_value() ? type_of(*cosines) : Type::f32,
                  as_int(positions, "the number of positions"),
                  as_int(batch, "the number of sequences"),
                  as_int(heads, "the number of heads"),
                  as_int(tokens, "the number of tokens"),
                  as_int(width, "the head width"),
                  static_cast<float>(eps)};
  STD_TORCH_CHECK(fits_grid(rows), "attention_forward: sequences, heads and tokens are more than one launch takes");
  launch_rows(rows, type_of(q), stream);
  if (packed) return {torch::stable::squeeze(to[0], 0), torch::stable::squeeze(to[1], 0)};
  return {torch::stable::transpose(to[0], 1, 2), torch::stable::transpose(to[1], 1, 2)};
}

std::tuple<Tensor, Tensor> attention_forward(const Tensor& q, const Tensor& k, const Tensor& v,
                                             const std::optional<Tensor>& q_norm,
                                             const std::optional<Tensor>& k_norm, const std::optional<Tensor>& cos,
                                             const std::optional<Tensor>& sin,
                                             const std::optional<Tensor>& cu_seqlens, int64_t longest, double scale,
                                             double eps) {
  const bool packed = cu_seqlens.has_value();
  check_inputs(q, k, v, packed);
  STD_TORCH_CHECK(!packed || (cu_seqlens->is_cuda() && cu_seqlens->is_contiguous() && cu_seqlens->dim() == 1 &&
                              cu_seqlens->scalar_type() == ScalarType::Int),
                  "attention_forward: cu_seqlens must be contiguous int32 on the device of q");
  for (const auto* x : {&q_norm, &k_norm, &cos, &sin}) {
    STD_TORCH_CHECK(!x->has_value() || (*x)->is_cuda(), "attention_forward: norms and tables must be on the device of q");
  }
  const int64_t heads = q.size(1), width = q.size(q.dim() - 1);
  const torch::stable::accelerator::DeviceGuard guard(q.get_device_index());
  const cudaStream_t stream = current_stream(q);
  // Tokens before heads in memory: what follows an attention reads a token's heads together.
  Tensor out, lse;
  if (packed) {
    out = torch::stable::new_empty(q, {q.size(0), heads, width});
    lse = torch::stable::new_empty(q, {q.size(0), heads}, ScalarType::Float);
  } else {
    out = torch::stable::transpose(torch::stable::new_empty(q, {q.size(0), q.size(2), heads, width}), 1, 2);
    lse = torch::stable::new_empty(q, {q.size(0), heads, q.size(2)}, ScalarType::Float);
  }
  if (q.numel() == 0 || longest == 0) return {out, lse};

  Tensor queries = q, keys = k;
  if (q_norm.has_value() || k_norm.has_value() || cos.has_value()) {
    const auto side_by_side = [](const Tensor& x) {
      return x.stride(x.dim() - 1) == 1 ? x : torch::stable::contiguous(x);
    };
    std::tie(queries, keys) = prepared(side_by_side(q), side_by_side(k), q_norm, k_norm, cos, sin, eps, stream);
  }
  queries = aligned(queries);
  keys = aligned(keys);
  const Tensor values = aligned(v);
  const Strides lse_strides = packed ? Strides{0, 1, heads} : Strides{lse.stride(0), lse.stride(1), 1};
  const Attention problem{queries.const_data_ptr(),
                          keys.const_data_ptr(),
                          values.const_data_ptr(),
                          out.mutable_data_ptr(),
                          static_cast<float*>(lse.mutable_data_ptr()),
                          strides_of(queries),
                          strides_of(keys),
                          strides_of(values),
                          strides_of(out),
                          lse_strides,
                          packed ? static_cast<const int*>(cu_seqlens->const_data_ptr()) : nullptr,
                          as_int(packed ? cu_seqlens->size(0) - 1 : q.size(0), "the number of sequences"),
                          as_int(heads, "the number of heads"),
                          as_int(packed ? longest : q.size(2), "the number of tokens"),
                          static_cast<float>(scale)};
  STD_TORCH_CHECK(fits_grid(problem), "attention_forward: sequences, heads and tokens are more than one launch takes");
  launch_attention(problem, type_of(q), static_cast<int>(width), stream);
  return {out, lse};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(vtp_cuda, m) {
  m.def(
      "attention_forward(Tensor q, Tensor k, Tensor v, Tensor? q_norm, Tensor? k_norm, Tensor? cos, Tensor? sin, "
      "Tensor? cu_seqlens, int longest, float scale, float eps) -> (Tensor, Tensor)");
}
STABLE_TORCH_LIBRARY_IMPL(vtp_cuda, CUDA, m) { m.impl("attention_forward", TORCH_BOX(&attention_forward)); }
