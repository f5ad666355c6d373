// Which kernel serves an attention problem.
#pragma once

#include "attention_float.cuh"
#include "attention_half.cuh"
#include "attention_rows.cuh"
#include "launch.cuh"

namespace vtp::cuda {

constexpr int kLongSequence = 512;  // from here on a block takes 128 queries, if its registers hold them

inline bool fits_attention(int width) { return width == 32 || width == 64 || width == 96 || width == 128; }

constexpr int kFewestQueries = 64;  // of a block
constexpr int64_t kMostBlocks = 2147483647;

// Whether the blocks of a launch can be counted; the sizes themselves are ints.
inline bool fits_grid(const Attention& problem) {
  const int64_t tiles = (int64_t{problem.tokens} + kFewestQueries - 1) / kFewestQueries;
  return tiles == 0 || int64_t{problem.heads} * problem.sequences <= kMostBlocks / tiles;
}
inline bool fits_grid(const Rows& rows) {
  const int64_t units = int64_t{rows.heads} * rows.sequences;  // below 2^62
  return rows.tokens == 0 || units <= 4 * kMostBlocks / rows.tokens;
}

inline unsigned attention_blocks(const Attention& problem, int queries) {
  return static_cast<unsigned>((problem.tokens + queries - 1) / queries) * problem.heads * problem.sequences;
}

template <class T, int Width, int Tiles>
void launch_half(const Attention& problem, Stream stream) {
  using A = HalfAttention<Width, Tiles>;
  static_assert(A::kShared <= kMostShared);
  VTP_LAUNCH((attention_half<T, Width, Tiles>), attention_blocks(problem, A::kQueries), A::kThreads, A::kShared, stream,
             problem);
}

template <class T>
void launch_attention_half(const Attention& problem, int width, Stream stream) {
  const bool is_long = problem.tokens >= kLongSequence;
  if (width == 32) {
    is_long ? launch_half<T, 32, 2>(problem, stream) : launch_half<T, 32, 1>(problem, stream);
  } else if (width == 64) {
    is_long ? launch_half<T, 64, 2>(problem, stream) : launch_half<T, 64, 1>(problem, stream);
  } else if (width == 96) {
    launch_half<T, 96, 1>(problem, stream);
  } else {
    launch_half<T, 128, 1>(problem, stream);
  }
}

template <int Width>
void launch_float(const Attention& problem, Stream stream) {
  using A = FloatAttention<Width>;
  static_assert(A::kShared <= kMostShared);
  VTP_LAUNCH(attention_float<Width>, attention_blocks(problem, A::kQueries), A::kThreads, A::kShared, stream, problem);
}

// Softmax attention of `width` 32, 64, 96 or 128. Rows of q, k and v begin at multiples of 16 bytes.
inline void launch_attention(const Attention& problem, Type type, int width, Stream stream) {
  if (problem.tokens == 0 || problem.sequences == 0 || problem.heads == 0) return;
  if (type == Type::bf16) {
    launch_attention_half<Bf16>(problem, width, stream);
  } else if (type == Type::f16) {
    launch_attention_half<Half>(problem, width, stream);
  } else if (width == 32) {
    launch_float<32>(problem, stream);
  } else if (width == 64) {
    launch_float<64>(problem, stream);
  } else if (width == 96) {
    launch_float<96>(problem, stream);
  } else {
    launch_float<128>(problem, stream);
  }
}

// Norm and rotation of queries and keys.
inline void launch_rows(const Rows& rows, Type type, Stream stream) {
  const int64_t count = static_cast<int64_t>(rows.sequences) * rows.tokens * rows.heads;
  if (count == 0) return;
  const dim3 grid(static_cast<unsigned>((count + 3) / 4), 2);
  if (type == Type::bf16) {
    VTP_LAUNCH(attention_rows<Bf16>, grid, 128, 0, stream, rows);
  } else if (type == Type::f16) {
    VTP_LAUNCH(attention_rows<Half>, grid, 128, 0, stream, rows);
  } else {
    VTP_LAUNCH(attention_rows<float>, grid, 128, 0, stream, rows);
  }
}

}  // namespace vtp::cuda
