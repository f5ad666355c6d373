// The register tile that all matrix products of the attention kernels are made of, and panel transposes.
//
// A word is 32 bits: a float, or a pair of bfloat16 (`pairs`). A panel is a row-major block of words. A tile
// adds sum_k a[row][k] * b[k][:] to `rows` x `columns` registers, a word of `a` broadcast at a time: `b`
// needs its columns beside each other, `a` any strides, so that only queries and output gradients are ever
// transposed.
#pragma once
#include <stdint.h>

#define VTP_INLINE inline __attribute__((always_inline))
#define VTP_LAMBDA __attribute__((always_inline))

namespace vtp {
namespace {

using Reg = Vector::Reg;

template <int n>
struct Int {
  static constexpr int value = n;
};

// Floats that a row of a head's width takes in a panel.
static VTP_INLINE int padded_width(int width) {
  constexpr int step = Vector::pairs ? 2 * Vector::lanes : Vector::lanes;
  return (width + step - 1) / step * step;
}

// The head width: a constant, or 0 and a member.
template <int n>
struct Width {
  static constexpr int most = n;  // floats at most
  explicit Width(int) {}
  static constexpr int floats() { return n; }  // padded
  // Whether a row fills registers exactly and each half of it too, as the rotation needs.
  static constexpr bool even() { return true; }
  static_assert(n % (2 * Vector::lanes) == 0 || n == 0);
};
template <>
struct Width<0> {
  static constexpr int most = 256;
  explicit Width(int width) : padded_(padded_width(width)), even_(width % (2 * Vector::lanes) == 0) {}
  int floats() const { return padded_; }
  bool even() const { return even_; }

 private:
  int padded_;
  bool even_;
};

constexpr int tile_rows = 6;
constexpr float log2_e = 1.4426950408889634f;
constexpr int block_queries = Vector::columns * Vector::lanes;

// Queries of the next block when `left` are left: full blocks, but no narrow one at the end if two even ones
// do.
static inline int next_queries(int left) {
  if (left <= block_queries) return left;
  return left <= block_queries + Vector::lanes ? block_queries - Vector::lanes : block_queries;
}

static VTP_INLINE int smaller(int a, int b) { return a < b ? a : b; }
static inline int64_t round_up(int64_t n, int64_t step) { return (n + step - 1) / step * step; }

// Calls f(Int<rows>, first row) over n rows: groups of `tile_rows`, then of 4, 2 and 1. (One call for any
// rest would make half as much machine code again, for less than 1 %.)
template <class F>
static VTP_INLINE void each_tile(int n, const F& f) {
  int i = 0;
  for (; i + tile_rows <= n; i += tile_rows) f(Int<tile_rows>(), i);
  if (i + 4 <= n) f(Int<4>(), i), i += 4;
  if (i + 2 <= n) f(Int<2>(), i), i += 2;
  if (i < n) f(Int<1>(), i);
}

// Calls f(Int<registers>, first float) over `floats` columns, in even groups of at most Vector::columns.
template <class F>
static VTP_INLINE void each_column_group(int floats, const F& f) {
  const int registers = floats / Vector::lanes;
  const int groups = (registers + Vector::columns - 1) / Vector::columns;
  for (int i = 0, at = 0; i < groups; i++) {
    const int count = (registers - at + groups - i - 1) / (groups - i);
    const int column = at * Vector::lanes;
    switch (count) {
      case 4:
        if constexpr (Vector::columns >= 4) f(Int<4>(), column);
        break;
      case 3:
        if constexpr (Vector::columns >= 3) f(Int<3>(), column);
        break;
      case 2:
        f(Int<2>(), column);
        break;
      default:
        f(Int<1>(), column);
        break;
    }
    at += count;
  }
}

template <int rows, int columns>
struct Tile {
  Reg at[rows][columns];

  VTP_INLINE void clear() {
#pragma GCC unroll 8
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 4
      for (int j = 0; j < columns; j++) at[i][j] = Vector::zero();
  }
  VTP_INLINE void load(const float* p, int64_t stride) {
#pragma GCC unroll 8
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 4
      for (int j = 0; j < columns; j++) at[i][j] = Vector::load(p + i * stride + j * Vector::lanes);
  }
  VTP_INLINE void store(float* p, int64_t stride) const {
#pragma GCC unroll 8
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 4
      for (int j = 0; j < columns; j++) Vector::store(p + i * stride + j * Vector::lanes, at[i][j]);
  }
  // a: word (row, k) at row * row_stride + k * step; b: words (k, column) at k * b_stride + column.
  template <bool pairs>
  VTP_INLINE void multiply(const uint32_t* a, int64_t row_stride, int64_t step, const uint32_t* b,
                           int64_t b_stride, int depth) {
    for (int k = 0; k < depth; k++) {
      Reg right[columns];
#pragma GCC unroll 4
      for (int j = 0; j < columns; j++)
        right[j] = Vector::load((const float*)(b + k * b_stride) + j * Vector::lanes);
#pragma GCC unroll 8
      for (int i = 0; i < rows; i++) {
        const Reg left = Vector::word(a + i * row_stride + k * step);
#pragma GCC unroll 4
        for (int j = 0; j < columns; j++)
          at[i][j] =
              pairs ? Vector::pair_dot(left, right[j], at[i][j]) : Vector::fma(left, right[j], at[i][j]);
      }
    }
  }
};

// `rows` rows of a panel of `words` words to [word][columns * lanes], absent rows as zeros.
template <int columns>
static VTP_INLINE void transpose_panel(const uint32_t* panel, int words, int rows, uint32_t* target) {
  constexpr int lanes = Vector::lanes, stride = columns * lanes;
  for (int j = 0; j < columns; j++)
    for (int w = 0; w < words; w += lanes)
      Vector::transpose(panel + (int64_t)j * lanes * words + w, words, rows - j * lanes,
                        target + (int64_t)w * stride + j * lanes, stride);
}

// [float][columns * lanes] back to rows of a panel of `floats` floats; writes columns * lanes rows.
template <int columns>
static VTP_INLINE void transpose_back(const float* source, int floats, float* panel) {
  constexpr int lanes = Vector::lanes, stride = columns * lanes;
  for (int j = 0; j < columns; j++)
    for (int d = 0; d < floats; d += lanes)
      Vector::transpose((const uint32_t*)source + (int64_t)d * stride + j * lanes, stride, lanes,
                        (uint32_t*)panel + (int64_t)j * lanes * floats + d, floats);
}

// Calls f(Int<columns>) with the fewest registers that hold `lanes`.
template <class F>
static VTP_INLINE void each_column_count(int lanes, const F& f) {
  switch ((lanes + Vector::lanes - 1) / Vector::lanes) {
    case 4:
      if constexpr (Vector::columns >= 4) f(Int<4>());
      break;
    case 3:
      if constexpr (Vector::columns >= 3) f(Int<3>());
      break;
    case 2:
      f(Int<2>());
      break;
    default:
      f(Int<1>());
      break;
  }
}

// log2 of a mantissa in [0.75, 1.5): 2 / ln 2 * atanh((m - 1) / (m + 1)), relative error 1e-7.
static VTP_INLINE Reg log2_of(Reg mantissa) {
  const Reg one = Vector::all(1.f);
  const Reg t = Vector::div(Vector::sub(mantissa, one), Vector::add(mantissa, one)), u = Vector::mul(t, t);
  Reg p = Vector::fma(Vector::all(1.f / 9), u, Vector::all(1.f / 7));
  p = Vector::fma(p, u, Vector::all(1.f / 5));
  p = Vector::fma(p, u, Vector::all(1.f / 3));
  p = Vector::fma(p, u, one);
  return Vector::mul(Vector::mul(p, t), Vector::all(2.885390081777927f));
}

}  // namespace
}  // namespace vtp
