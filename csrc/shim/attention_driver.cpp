// The attention of csrc/cuda on the CPU, for ctypes: inputs and results are copied to and from guarded memory.
#include <type_traits>

#include "attention_launch.cuh"
#include "driver.h"
#include "guarded.h"

using namespace vtp::cuda;

// q, k, v: `span` elements each, from the first to the last one used, all with `strides` (sequence, head, token).
// out is (sequence, token, head, width) or (token, head, width), lse the same without width.
extern "C" int vtp_shim_attention(const void* q, const void* k, const void* v, long long span, const long long* strides,
                                  int type, int sequences, int heads, int tokens, int width, const int* cu_seqlens,
                                  long long total_tokens, float scale, unsigned long long seed, void* out, float* lse) {
  return shim::guarded_call([&] {
    shim::set_seed(seed);
    const Type element = static_cast<Type>(type);
    const size_t bytes = element == Type::f32 ? 4 : 2;
    const shim::Guarded queries(q, span * bytes), keys(k, span * bytes), values(v, span * bytes);
    const shim::Guarded ends(cu_seqlens, cu_seqlens == nullptr ? 0 : (sequences + 1) * sizeof(int));
    const shim::Guarded result(total_tokens * heads * width * bytes), sums(total_tokens * heads * 4);
    const Strides in{strides[0], strides[1], strides[2]};
    const int64_t row = static_cast<int64_t>(heads) * width;
    const Attention problem{queries.data(), keys.data(), values.data(), result.data(), sums.as<float>(), in, in, in,
                            {tokens * row, width, row}, {static_cast<int64_t>(tokens) * heads, 1, heads},
                            cu_seqlens == nullptr ? nullptr : ends.as<const int>(), sequences, heads, tokens, scale};
    launch_attention(problem, element, width, nullptr);
    std::memcpy(out, result.data(), result.size());
    std::memcpy(lse, sums.data(), sums.size());
  });
}

// Norm and rotation; x (sequences, tokens, heads, width) contiguous serves as queries and as keys.
extern "C" int vtp_shim_rows(const void* x, int type, int sequences, int tokens, int heads, int width,
                             const float* q_norm, const float* k_norm, const void* cos, const void* sin, int table,
                             int positions, float eps, unsigned long long seed, void* q_out, void* k_out) {
  return shim::guarded_call([&] {
    shim::set_seed(seed);
    const Type element = static_cast<Type>(type), table_type = static_cast<Type>(table);
    const size_t bytes = static_cast<size_t>(sequences) * tokens * heads * width * (element == Type::f32 ? 4 : 2);
    const size_t table_bytes = static_cast<size_t>(positions) * width * (table_type == Type::f32 ? 4 : 2);
    const shim::Guarded in(x, bytes), q(bytes), k(bytes), cosines(cos, cos == nullptr ? 0 : table_bytes),
        sines(sin, sin == nullptr ? 0 : table_bytes);
    const shim::Guarded q_weight(q_norm, q_norm == nullptr ? 0 : width * 4);
    const shim::Guarded k_weight(k_norm, k_norm == nullptr ? 0 : width * 4);
    const int64_t row = static_cast<int64_t>(heads) * width;
    const Strides strides{tokens * row, width, row};
    const Rows rows{{in.data(), in.data()}, {q.data(), k.data()}, {strides, strides},
                    {q_norm == nullptr ? nullptr : q_weight.as<const float>(),
                     k_norm == nullptr ? nullptr : k_weight.as<const float>()},
                    cos == nullptr ? nullptr : cosines.data(), sin == nullptr ? nullptr : sines.data(), table_type,
                    positions, sequences, heads, tokens, width, eps};
    launch_rows(rows, element, nullptr);
    std::memcpy(q_out, q.data(), bytes);
    std::memcpy(k_out, k.data(), bytes);
  });
}
