// Codes -> panels: survey, norms, transposed and centred panels with their bounds.
#pragma once

#include "search.h"

namespace {

using vtp::search::Survey;

// Rows in scratch are padded with zeros; those that become pairs of bfloat16 twice as far.
VTP_INLINE int64_t padded(int64_t width) { return (width + 15) / 16 * 16; }
VTP_INLINE int64_t padded_pairs(int64_t width) { return (width + 31) / 32 * 32; }

template <class T, Metric M>
void survey_as(const Survey& s, int64_t first, int64_t last, double* sums) {
  for (int64_t k = first; k < last; k++) {
    const T* row = (const T*)s.rows + k * s.width;
    s.hash[k] = checksum(row, (size_t)s.width * sizeof(T));
    Direction u = {1, 1};
    bool sound = true;
    if (M == Metric::cosine) {
      u = Measure<T, M>::direction(row, s.width);
      s.prescale[k] = u.prescale;
      s.inverse[k] = u.inverse;
      sound = u.inverse > 0;
    } else {
      double zero = 0;  // stays 0 unless an entry is infinite or NaN
      int64_t d = 0;
      Octet sum = Octet::set(0);
      for (; d + 8 <= s.width; d += 8) sum = Octet::add(sum, Octet::mul(Octet::load(row + d), Octet::set(0)));
      zero = Octet::total(sum);
      for (; d < s.width; d++) zero += (double)row[d] * 0;
      sound = zero == 0;
    }
    s.sound[k] = sound;
    if (!sound) continue;
    int64_t d = 0;
    for (; d + 8 <= s.width; d += 8) {
      Octet::store(sums + d, Octet::add(Octet::load(sums + d), Measure<T, M>::image(Octet::load(row + d), u)));
    }
    if (d < s.width) {
      double rest[8];
      Octet::store(rest, Measure<T, M>::image(Octet::load(row + d, (int)(s.width - d)), u));
      for (int i = 0; d < s.width; d++, i++) sums[d] += rest[i];
    }
  }
}

// |image - centre|^2 (weighted) of sound codes, not scaled.
template <class T, Metric M>
void squares_as(const Survey& s, int64_t first, int64_t last) {
  const int64_t whole = s.width & ~(int64_t)7;
  Octet weight = Octet::set(0);
  for (int64_t k = first; k < last; k++) {
    s.square[k] = 0;
    if (!s.sound[k]) continue;
    const T* row = (const T*)s.rows + k * s.width;
    const Direction u = M == Metric::cosine ? Direction{s.prescale[k], s.inverse[k]} : Direction{1, 1};
    Octet sum = Octet::set(0);
    for (int64_t d = 0; d < whole; d += 8) {
      if (M == Metric::weighted) weight = Octet::load(s.weight + d);
      const Octet image = Measure<T, M>::image(Octet::load(row + d), u);
      sum = Octet::add(sum, Measure<T, M>::term(image, Octet::load(s.centre + d), weight));
    }
    if (whole < s.width) {
      const int n = (int)(s.width - whole);
      if (M == Metric::weighted) weight = Octet::load(s.weight + whole, n);
      sum = Octet::add(sum, Measure<T, M>::term(Measure<T, M>::image(Octet::load(row + whole, n), u),
                                                Octet::load(s.centre + whole, n), weight));
    }
    s.square[k] = Octet::total(sum);
  }
}

static size_t pack_scratch(int64_t width) { return (size_t)(4 * padded(width)) * sizeof(float); }

template <class T, Metric M>
void pack_as(const Codes& codes, const void* code_rows, float* panels, float* biases, uint32_t* halves, double* radius,
             double* error, int64_t first, int64_t last, void* scratch) {
  const int64_t width = codes.width, ld = padded(width), words = (width + 1) / 2;
  float* four = (float*)scratch;
  for (int64_t p = first; p < last; p++) {
    float* panel = panels + p * width * kPanel;
    double most = 0;
    for (int j = 0; j < kPanel; j += 4) {
      for (int i = 0; i < 4; i++) {
        const int64_t k = codes.slots[p * kPanel + j + i];
        float* row = four + i * ld;
        if (k < 0) {
          memset(row, 0, (size_t)ld * sizeof(float));
          biases[p * kPanel + j + i] = -__builtin_inff();
          continue;
        }
        const Direction u = M == Metric::cosine ? Direction{codes.prescale[k], codes.inverse[k]} : Direction{1, 1};
        const double square = Measure<T, M>::centre(codes, (const T*)code_rows + k * width, u, row, ld);
        biases[p * kPanel + j + i] = (float)(-0.5 * square);
        if (square > most) most = square;
      }
      int64_t d = 0;
      for (; d + 4 <= width; d += 4) transpose4(four + d, ld, panel + d * kPanel + j, kPanel);
      for (; d < width; d++) {
        for (int i = 0; i < 4; i++) panel[d * kPanel + j + i] = four[i * ld + d];
      }
    }
    radius[p] = __builtin_sqrt(most) * 1.0001;
    error[p] = 0;
    if (!Halves::kHas || halves == nullptr) continue;
    static const float zeros[kPanel] = {0};
    float lost[kPanel] = {0};
    for (int64_t d = 0; d < words; d++) {
      const float* a = panel + 2 * d * kPanel;
      const float* b = 2 * d + 1 < width ? a + kPanel : zeros;
      for (int j = 0; j < kPanel; j += Floats::kLanes) {
        Halves::round_pair(a + j, b + j, halves + (p * words + d) * kPanel + j, lost + j);
      }
    }
    double worst = 0;
    for (int j = 0; j < kPanel; j++) worst = lost[j] > worst ? lost[j] : worst;
    // The sum is a float32 one, the panel is rounded itself.
    error[p] = __builtin_sqrt(worst) * (1.0001 + (double)width * kUnit32) + 2 * kUnit32 * radius[p];
  }
}

// Calls FUNCTION<T, M> for the codes' type and metric.
#define VTP_SEARCH_DISPATCH(function, wide, metric, ...)                             \
  switch (metric) {                                                                  \
    case Metric::l2:                                                                 \
      return wide ? function<double, Metric::l2>(__VA_ARGS__) : function<float, Metric::l2>(__VA_ARGS__);             \
    case Metric::cosine:                                                             \
      return wide ? function<double, Metric::cosine>(__VA_ARGS__) : function<float, Metric::cosine>(__VA_ARGS__);     \
    case Metric::weighted:                                                           \
      return wide ? function<double, Metric::weighted>(__VA_ARGS__) : function<float, Metric::weighted>(__VA_ARGS__); \
  }

static void survey(const Survey& s, int64_t first, int64_t last, double* sums) {
  const PlainRounding rounding;
  VTP_SEARCH_DISPATCH(survey_as, s.wide, s.metric, s, first, last, sums)
}

static void squares(const Survey& s, int64_t first, int64_t last) {
  const PlainRounding rounding;
  VTP_SEARCH_DISPATCH(squares_as, s.wide, s.metric, s, first, last)
}

static void pack(const Codes& codes, const void* code_rows, float* panel, float* bias, uint32_t* half, double* radius,
                 double* error, int64_t first, int64_t last, void* scratch) {
  const PlainRounding rounding;
  VTP_SEARCH_DISPATCH(pack_as, codes.wide, codes.metric, codes, code_rows, panel, bias, half, radius, error, first, last,
                      scratch)
}

}  // namespace
