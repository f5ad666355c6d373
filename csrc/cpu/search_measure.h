// What a row or a code looks like to each metric: its distance as defined, its centred image for the screens.
#pragma once

#include "search.h"

namespace {

using vtp::search::Codes;
using vtp::search::Metric;

constexpr double kUnit32 = 0x1p-24, kUnit64 = 0x1p-53;

// Factors that make a unit vector under cosine: u = (x * prescale) * inverse.
struct Direction {
  double prescale, inverse;  // inverse: 0 for a vector of zeros, NaN for one that is not finite
};

template <class T, Metric M>
struct Measure {
  VTP_INLINE Octet image(Octet v, Direction u) {
    if (M != Metric::cosine) return v;
    if (sizeof(T) == 8) v = Octet::mul(v, Octet::set(u.prescale));
    return Octet::mul(v, Octet::set(u.inverse));
  }

  VTP_INLINE Octet term(Octet x, Octet c, Octet weight) {
    const Octet difference = Octet::sub(x, c), square = Octet::mul(difference, difference);
    return M == Metric::weighted ? Octet::mul(square, weight) : square;
  }

  // The float64 distance of the definition, in its order. `x` is no vector of zeros under cosine.
  VTP_INLINE double distance(const Codes& codes, const T* x, Direction ux, const T* c, int64_t k) {
    Direction uc = {1, 1};
    if (M == Metric::cosine) {
      uc = {codes.prescale[k], codes.inverse[k]};
      if (uc.inverse == 0) return ux.inverse == ux.inverse ? 1.0 : ux.inverse;
    }
    const int64_t whole = codes.width & ~(int64_t)7, rest = codes.width - whole;
    Octet sum = Octet::set(0), weight = sum;
    for (int64_t d = 0; d < whole; d += 8) {
      if (M == Metric::weighted) weight = Octet::load(codes.weight + d);
      sum = Octet::add(sum, term(image(Octet::load(x + d), ux), image(Octet::load(c + d), uc), weight));
    }
    if (rest) {
      const int n = (int)rest;
      if (M == Metric::weighted) weight = Octet::load(codes.weight + whole, n);
      sum = Octet::add(sum, term(image(Octet::load(x + whole, n), ux), image(Octet::load(c + whole, n), uc), weight));
    }
    const double total = Octet::total(sum);
    return M == Metric::cosine ? total * 0.5 : total;
  }

  static Direction direction(const T* x, int64_t width) {
    Direction u = {1, 1};
    if (M != Metric::cosine) return u;
    if (sizeof(T) == 8) {
      double largest = 0;
      for (int64_t d = 0; d < width; d++) {
        const double size = x[d] < 0 ? -(double)x[d] : (double)x[d];
        if (!(size <= largest)) largest = size;  // a NaN sticks, unless a number follows; the sum has it anyway
      }
      if (largest > 0x1p500) u.prescale = 0x1p-600;
      if (largest < 0x1p-500) u.prescale = 0x1p600;
    }
    const int64_t whole = width & ~(int64_t)7;
    Octet sum = Octet::set(0);
    const Octet prescale = Octet::set(u.prescale);
    for (int64_t d = 0; d < whole; d += 8) {
      const Octet v = Octet::mul(Octet::load(x + d), prescale);
      sum = Octet::add(sum, Octet::mul(v, v));
    }
    if (width > whole) {
      const Octet v = Octet::mul(Octet::load(x + whole, (int)(width - whole)), prescale);
      sum = Octet::add(sum, Octet::mul(v, v));
    }
    const double square = Octet::total(sum);
    if (square == 0) {
      u.inverse = 0;
    } else if (square - square == 0) {
      u.inverse = 1 / __builtin_sqrt(square);
    } else {
      u.inverse = square - square;  // NaN
    }
    return u;
  }

  // (image - centre) * scale, or * factor under weighted: `width` values, then zeros up to `padded`, a multiple of
  // 8. Returns their squared norm before rounding to Out.
  template <class Out>
  static double centre(const Codes& codes, const T* x, Direction u, Out* out, int64_t padded) {
    const int64_t whole = codes.width & ~(int64_t)7;
    Octet sum = Octet::set(0), factor = Octet::set(codes.scale);
    for (int64_t d = 0; d < padded; d += 8) {
      Octet v = Octet::set(0);
      if (d < whole) {
        if (M == Metric::weighted) factor = Octet::load(codes.factor + d);
        v = Octet::mul(Octet::sub(image(Octet::load(x + d), u), Octet::load(codes.centre + d)), factor);
      } else if (d < codes.width) {
        const int n = (int)(codes.width - whole);
        if (M == Metric::weighted) factor = Octet::load(codes.factor + d, n);
        v = Octet::mul(Octet::sub(image(Octet::load(x + d, n), u), Octet::load(codes.centre + d, n)), factor);
      }
      Octet::store(out + d, v);
      sum = Octet::add(sum, Octet::mul(v, v));
    }
    return Octet::total(sum);
  }
};

// The same for the case that counts: float32 rows, l2. The norm is a float32 sum of the rounded values.
VTP_INLINE float centre_plain(const Codes& codes, const float* x, float* out, int64_t padded) {
  using F = Floats;
  const int64_t whole = codes.width / F::kLanes * F::kLanes;
  const F::V scale = F::set((float)codes.scale);
  F::V sum = F::set(0);
  for (int64_t d = 0; d < whole; d += F::kLanes) {
    const F::V v = F::mul(F::sub(F::load(x + d), F::load(codes.centre32 + d)), scale);
    F::store(out + d, v);
    sum = F::fma(v, v, sum);
  }
  float rest[F::kLanes] = {0};
  for (int64_t d = whole; d < codes.width; d++) rest[d - whole] = x[d];
  for (int64_t d = whole; d < padded; d += F::kLanes) {
    const float* last = d == whole ? rest : codes.centre32 + codes.width;  // then zeros
    const F::V v = F::mul(F::sub(F::load(last), F::load(codes.centre32 + d)), scale);
    F::store(out + d, v);
    sum = F::fma(v, v, sum);
  }
  return F::sum(sum);
}

}  // namespace
