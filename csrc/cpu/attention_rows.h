// Rows between the caller's tensors and the kernels' panels, with query and key norm and rotation on the way.
//
// The rows of a head lie far apart, often more than a page, where hardware prefetchers don't follow: software
// prefetch some rows ahead is worth 10 to 15 % of the whole kernel.
#pragma once
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "attention_task.h"
#include "attention_tile.h"

namespace vtp {
namespace {

constexpr int rows_ahead = 12;
constexpr int max_width = Width<0>::most;

static VTP_INLINE void prefetch(const char* row, int64_t stride, int bytes) {
  for (int i = 0; i < bytes; i += 64) __builtin_prefetch(row + rows_ahead * stride + i);
}

template <bool bf16>
static VTP_INLINE Reg load_row(const char* row, int at) {
  if constexpr (bf16)
    return Vector::load_bf16((const uint16_t*)row + at);
  else
    return Vector::load((const float*)row + at);
}
template <bool bf16>
static VTP_INLINE void store_row(char* row, int at, Reg x) {
  if constexpr (bf16)
    Vector::store_bf16((uint16_t*)row + at, x);
  else
    Vector::store((float*)row + at, x);
}

// What happens to the queries or keys of one sequence on their way into the panel.
struct Change {
  const float* norm;          // weight, or null
  const char *cosine, *sine;  // of the sequence's first rotated token, or null
  int still;                  // tokens before that one, which keep their place
  bool tables_bf16;
  float eps;

  bool none() const { return !norm && !cosine; }
};

static inline Change change_of(const AttentionTask& task, const float* norm, int64_t sequence,
                               int64_t tokens) {
  Change change = {norm, nullptr, nullptr, 0, task.rope.bf16, task.eps};
  if (!task.rope.cosine) return change;
  const int64_t row = task.width * (task.rope.bf16 ? 2 : 4);
  const int64_t first = task.starts ? task.starts[sequence] : 0;
  change.cosine = task.rope.cosine + first * row;
  change.sine = task.rope.sine + first * row;
  change.still = task.starts ? 0 : (int)(tokens - task.rope.positions);
  return change;
}

static inline float inverse_rms(float squares, int width, float eps) {
  return 1.f / sqrtf(squares * (1.f / width) + eps);
}

// A row in registers; for even widths.
template <bool bf16, class W>
struct Row {
  Reg at[W::most / Vector::lanes];
  int floats, count, half;
  float inverse;  // 1 / rms of the row as it came, if there is a norm

  VTP_INLINE explicit Row(W width)
      : floats(width.floats()), count(floats / Vector::lanes), half(count / 2), inverse(1.f) {}

  VTP_INLINE void load(const char* row, const Change& change) {
    Reg squares = Vector::zero();
#pragma GCC unroll 16
    for (int j = 0; j < count; j++) {
      at[j] = load_row<bf16>(row, j * Vector::lanes);
      squares = Vector::fma(at[j], at[j], squares);
    }
    if (change.norm) inverse = inverse_rms(Vector::sum(squares), floats, change.eps);
  }
  // In torch's order of products: one rounding apart can flip a rounding to bfloat16 behind it.
  VTP_INLINE void scale(const Change& change) {
    if (!change.norm) return;
    const Reg all = Vector::all(inverse);
#pragma GCC unroll 16
    for (int j = 0; j < count; j++)
      at[j] = Vector::mul(Vector::mul(at[j], all), Vector::load(change.norm + j * Vector::lanes));
  }
  template <bool table_bf16>
  VTP_INLINE void rotate(const Change& change, int token) {
    const int64_t first = (int64_t)(token - change.still) * floats * (table_bf16 ? 2 : 4);
    const char *cosine = change.cosine + first, *sine = change.sine + first;
#pragma GCC unroll 8
    for (int j = 0; j < half; j++) {
      const int a = j * Vector::lanes, b = (j + half) * Vector::lanes;
      const Reg cos_a = load_row<table_bf16>(cosine, a), cos_b = load_row<table_bf16>(cosine, b);
      const Reg sin_a = load_row<table_bf16>(sine, a), sin_b = load_row<table_bf16>(sine, b);
      if constexpr (table_bf16) {
        const Reg x = Vector::round_bf16(at[j]), y = Vector::round_bf16(at[j + half]);
        at[j] = Vector::round_bf16(Vector::sub(Vector::round_bf16(Vector::mul(x, cos_a)),
                                               Vector::round_bf16(Vector::mul(y, sin_a))));
        at[j + half] = Vector::round_bf16(Vector::add(Vector::round_bf16(Vector::mul(y, cos_b)),
                                                      Vector::round_bf16(Vector::mul(x, sin_b))));
      } else {
        const Reg x = at[j], y = at[j + half];
        at[j] = Vector::fms(x, cos_a, Vector::mul(y, sin_a));
        at[j + half] = Vector::fma(y, cos_b, Vector::mul(x, sin_b));
      }
    }
  }
  // Gradient `g` of the turned row to that of the row before.
  template <bool table_bf16>
  VTP_INLINE void turn_back(Reg* g, const Change& change, int token) {
    const int64_t first = (int64_t)(token - change.still) * floats * (table_bf16 ? 2 : 4);
    const char *cosine = change.cosine + first, *sine = change.sine + first;
#pragma GCC unroll 8
    for (int j = 0; j < half; j++) {
      const int a = j * Vector::lanes, b = (j + half) * Vector::lanes;
      const Reg x = g[j], y = g[j + half];
      g[j] = Vector::fma(x, load_row<table_bf16>(cosine, a), Vector::mul(y, load_row<table_bf16>(sine, b)));
      g[j + half] =
          Vector::fms(y, load_row<table_bf16>(cosine, b), Vector::mul(x, load_row<table_bf16>(sine, a)));
    }
  }
  VTP_INLINE void change_to(const Change& change, int token) {
    scale(change);
    if (!change.cosine) return;
    if (token >= change.still) {
      if (change.tables_bf16)
        rotate<true>(change, token);
      else
        rotate<false>(change, token);
    } else if (change.tables_bf16) {
#pragma GCC unroll 16
      for (int j = 0; j < count; j++) at[j] = Vector::round_bf16(at[j]);
    }
  }
};

static inline float widen(uint16_t bits) {
  const uint32_t word = (uint32_t)bits << 16;
  float x;
  memcpy(&x, &word, 4);
  return x;
}
// To the nearest bfloat16, ties to even.
static inline float rounded(float x) {
  uint32_t bits;
  memcpy(&bits, &x, 4);
  bits = x == x ? (bits + 0x7fff + ((bits >> 16) & 1)) & 0xffff0000u : 0x7fc00000u;
  memcpy(&x, &bits, 4);
  return x;
}

// The same for any width, a value at a time.
struct Turn {
  const char *cosines, *sines;
  bool bf16;

  Turn(const Change& change, int token, int width) : bf16(change.tables_bf16) {
    const int64_t first = (int64_t)(token - change.still) * width * (bf16 ? 2 : 4);
    cosines = change.cosine + first;
    sines = change.sine + first;
  }
  float cosine(int d) const {
    return bf16 ? widen(((const uint16_t*)cosines)[d]) : ((const float*)cosines)[d];
  }
  float sine(int d) const { return bf16 ? widen(((const uint16_t*)sines)[d]) : ((const float*)sines)[d]; }
};

static inline float inverse_rms_of(const float* x, int width, float eps) {
  float squares = 0.f;
  for (int d = 0; d < width; d++) squares += x[d] * x[d];
  return inverse_rms(squares, width, eps);
}

static inline void change_any(float* x, int width, const Change& change, int token) {
  if (change.norm) {
    const float inverse = inverse_rms_of(x, width, change.eps);
    for (int d = 0; d < width; d++) x[d] = x[d] * inverse * change.norm[d];
  }
  if (!change.cosine) return;
  const bool narrow = change.tables_bf16;
  if (narrow)
    for (int d = 0; d < width; d++) x[d] = rounded(x[d]);
  if (token < change.still) return;
  const Turn turn(change, token, width);
  for (int d = 0; d < width / 2; d++) {
    const int e = d + width / 2;
    const float a = x[d], b = x[e];
    if (narrow) {
      x[d] = rounded(rounded(a * turn.cosine(d)) - rounded(b * turn.sine(d)));
      x[e] = rounded(rounded(b * turn.cosine(e)) + rounded(a * turn.sine(e)));
    } else {
      x[d] = a * turn.cosine(d) - b * turn.sine(d);
      x[e] = b * turn.cosine(e) + a * turn.sine(e);
    }
  }
}

template <bool bf16>
static inline void row_to_floats(const char* row, int width, int padded, float* target) {
  for (int d = 0; d < width; d++)
    target[d] = bf16 ? widen(((const uint16_t*)row)[d]) : ((const float*)row)[d];
  for (int d = width; d < padded; d++) target[d] = 0.f;
}
template <bool bf16>
static inline void floats_to_row(const float* source, int width, char* row) {
  int d = 0;
  for (; d + Vector::lanes <= width; d += Vector::lanes) store_row<bf16>(row, d, Vector::load(source + d));
  if (d == width) return;
  alignas(64) float rest[Vector::lanes] = {0.f};
  alignas(64) char last[4 * Vector::lanes];
  memcpy(rest, source + d, (width - d) * 4);
  store_row<bf16>(last, 0, Vector::load(rest));
  memcpy(row + d * (bf16 ? 2 : 4), last, (width - d) * (bf16 ? 2 : 4));
}

// Rows [first, first + count) of one sequence and head as a panel of padded rows: floats, or bfloat16
// (`pairs`).
template <bool bf16, bool pairs, class W>
static void load_panel(const char* rows, int64_t stride, int first, int count, const Change& change,
                       int width, W padded, void* panel) {
  const int bytes = width * (bf16 ? 2 : 4);
  const int64_t panel_stride = (int64_t)padded.floats() * (pairs ? 2 : 4);
  rows += first * stride;
  char* target = (char*)panel;
  for (int i = 0; i < count; i++, rows += stride, target += panel_stride) {
    prefetch(rows, stride, bytes);
    if (padded.even()) {
      if (bf16 == pairs && change.none()) {
        memcpy(target, rows, padded.floats() * (bf16 ? 2 : 4));
        continue;
      }
      Row<bf16, W> row(padded);
      row.load(rows, change);
      row.change_to(change, first + i);
#pragma GCC unroll 16
      for (int j = 0; j < row.count; j++) store_row<pairs>(target, j * Vector::lanes, row.at[j]);
    } else {
      alignas(64) float x[max_width];
      row_to_floats<bf16>(rows, width, padded.floats(), x);
      if (!change.none()) change_any(x, width, change, first + i);
      for (int d = 0; d < padded.floats(); d += Vector::lanes)
        store_row<pairs>(target, d, Vector::load(x + d));
    }
  }
}

static inline int tokens_of(const AttentionTask& task, int64_t sequence) {
  return task.starts ? task.starts[sequence + 1] - task.starts[sequence] : task.tokens;
}
// Where the rows of one sequence and head begin.
static inline char* row_of(const AttentionTask& task, const AttentionRows& rows, int64_t sequence,
                           int64_t head) {
  const int64_t first = task.starts ? task.starts[sequence] * rows.token : sequence * rows.sequence;
  return rows.data + first + head * rows.head;
}

// All rows of one sequence and head as a panel: the tensor itself if it happens to be one, else a copy.
template <bool bf16, bool pairs, class W>
static const uint32_t* panel_of(const AttentionTask& task, const AttentionRows& rows, int64_t sequence,
                                int64_t head, int tokens, const Change& change, W padded, void* copy) {
  const char* source = row_of(task, rows, sequence, head);
  const bool dense = task.width == padded.floats() && rows.token == task.width * (bf16 ? 2 : 4);
  if (bf16 == pairs && dense && change.none() && (uintptr_t)source % 4 == 0) return (const uint32_t*)source;
  load_panel<bf16, pairs>(source, rows.token, 0, tokens, change, task.width, padded, copy);
  return (const uint32_t*)copy;
}

// bfloat16 rows to rows of pairs: word (i, d) holds rows 2i and 2i + 1; an absent last row counts as zero.
static inline void pair_rows(const char* rows, int64_t stride, int count, int width, int padded,
                             uint32_t* target) {
  for (int i = 0; i < count; i += 2, rows += 2 * stride, target += padded) {
    prefetch(rows, stride, 2 * width);
    prefetch(rows + stride, stride, 2 * width);
    const uint16_t *first = (const uint16_t*)rows,
                   *second = i + 1 < count ? (const uint16_t*)(rows + stride) : nullptr;
    int d = 0;
    for (; d + Vector::lanes <= width; d += Vector::lanes)
      Vector::interleave_bf16(target + d, first + d, second ? second + d : nullptr);
    for (; d < width; d++) target[d] = first[d] | (second ? (uint32_t)second[d] << 16 : 0u);
    for (; d < padded; d++) target[d] = 0;
  }
}

}  // namespace
}  // namespace vtp
