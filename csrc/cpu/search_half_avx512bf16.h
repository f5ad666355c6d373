// Screening with vdpbf16ps: two products of bfloat16 a 32-bit lane, added in float32. Denormals count as zero.
#pragma once

namespace {

struct Halves {
  static constexpr bool kHas = true;

  VTP_INLINE Floats::V dot(Floats::V sum, Floats::V x, Floats::V c) {
    return _mm512_dpbf16_ps(sum, (__m512bh)_mm512_castps_si512(x), (__m512bh)_mm512_castps_si512(c));
  }

  // Rounds a row to bfloat16, two values a word; `width` is a multiple of 32. Returns the squared rounding error.
  VTP_INLINE double round_row(const float* row, int64_t width, float* words) {
    __m512 error = _mm512_setzero_ps();
    for (int64_t d = 0; d < width; d += 32) {
      const __m512 a = _mm512_loadu_ps(row + d), b = _mm512_loadu_ps(row + d + 16);
      const __m512i both = (__m512i)_mm512_cvtne2ps_pbh(b, a);
      _mm512_storeu_si512(words + d / 2, both);
      const __m512 p = _mm512_sub_ps(a, widen(_mm512_castsi512_si256(both)));
      const __m512 q = _mm512_sub_ps(b, widen(_mm512_extracti64x4_epi64(both, 1)));
      error = _mm512_fmadd_ps(p, p, _mm512_fmadd_ps(q, q, error));
    }
    return _mm512_reduce_add_ps(error);
  }

  // Rounds kLanes codes at two neighbouring places; adds the squared rounding errors to `error`.
  VTP_INLINE void round_pair(const float* first, const float* second, uint32_t* words, float* error) {
    const __m512 a = _mm512_loadu_ps(first), b = _mm512_loadu_ps(second);
    const __m256i p = (__m256i)_mm512_cvtneps_pbh(a), q = (__m256i)_mm512_cvtneps_pbh(b);
    const __m512i low = _mm512_cvtepu16_epi32(p), high = _mm512_slli_epi32(_mm512_cvtepu16_epi32(q), 16);
    _mm512_storeu_si512(words, _mm512_or_si512(low, high));
    const __m512 x = _mm512_sub_ps(a, widen(p)), y = _mm512_sub_ps(b, _mm512_castsi512_ps(high));
    _mm512_storeu_ps(error, _mm512_fmadd_ps(x, x, _mm512_fmadd_ps(y, y, _mm512_loadu_ps(error))));
  }

 private:
  VTP_INLINE __m512 widen(__m256i h) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16));
  }
};

}  // namespace
