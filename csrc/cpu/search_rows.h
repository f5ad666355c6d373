// Rows as they lie in memory -> contiguous float32 or float64.
#pragma once

#include <string.h>

#include "search.h"

namespace {

using vtp::search::Kind;
using vtp::search::Rows;

VTP_INLINE float widen_bf16(uint16_t h) {
  const uint32_t bits = (uint32_t)h << 16;
  float f;
  memcpy(&f, &bits, 4);
  return f;
}

VTP_INLINE float widen_f16(uint16_t h) {
  // The exponent is rebased by an exact product, which is right for denormals too; infinities and NaN are not
  // reached by it.
  uint32_t bits = (uint32_t)(h & 0x7fff) << 13;
  float f;
  memcpy(&f, &bits, 4);
  f *= 0x1p112f;
  memcpy(&bits, &f, 4);
  bits = (h & 0x7c00) == 0x7c00 ? 0x7f800000u | (uint32_t)(h & 0x3ff) << 13 : bits;
  bits |= (uint32_t)(h & 0x8000) << 16;
  memcpy(&f, &bits, 4);
  return f;
}

// Whether a row can be read where it is.
template <class T>
VTP_INLINE bool in_place(const Rows& rows) {
  return rows.step == 1 && rows.kind == (sizeof(T) == 8 ? Kind::f64 : Kind::f32);
}

template <class T, class S, class Widen>
VTP_INLINE void widen_row(const S* from, int64_t step, int64_t width, T* out, Widen widen) {
  if (step == 1) {
    for (int64_t d = 0; d < width; d++) out[d] = (T)widen(from[d]);
  } else {
    for (int64_t d = 0; d < width; d++) out[d] = (T)widen(from[d * step]);
  }
}

template <class T>
static void read_row(const Rows& rows, int64_t n, T* out) {
  const int64_t at = n * rows.stride, step = rows.step, width = rows.width;
  const auto same = [](auto v) { return v; };
  switch (rows.kind) {
    case Kind::f32: return widen_row((const float*)rows.data + at, step, width, out, same);
    case Kind::f64: return widen_row((const double*)rows.data + at, step, width, out, same);
    case Kind::bf16: return widen_row((const uint16_t*)rows.data + at, step, width, out, widen_bf16);
    case Kind::f16: return widen_row((const uint16_t*)rows.data + at, step, width, out, widen_f16);
  }
}

static void to_rows(const Rows& rows, int64_t first, int64_t last, void* out) {
  for (int64_t n = first; n < last; n++) {
    if (rows.kind == Kind::f64) {
      read_row(rows, n, (double*)out + n * rows.width);
    } else {
      read_row(rows, n, (float*)out + n * rows.width);
    }
  }
}

}  // namespace
