// AVX2 registers for the search. For files compiled with AVX2 and FMA only.
#pragma once
#include <immintrin.h>
#include <stdint.h>

namespace {

#define VTP_INLINE static inline __attribute__((always_inline))

struct Floats {
  using V = __m256;
  static constexpr int kLanes = 8, kVectors = 2, kPoints = 6;
  VTP_INLINE V set(float a) { return _mm256_set1_ps(a); }
  VTP_INLINE V load(const float* p) { return _mm256_loadu_ps(p); }
  VTP_INLINE void store(float* p, V a) { _mm256_storeu_ps(p, a); }
  VTP_INLINE V fma(V a, V b, V c) { return _mm256_fmadd_ps(a, b, c); }
  VTP_INLINE V sub(V a, V b) { return _mm256_sub_ps(a, b); }
  VTP_INLINE V mul(V a, V b) { return _mm256_mul_ps(a, b); }
  VTP_INLINE V max(V a, V b) { return _mm256_max_ps(a, b); }
  VTP_INLINE V min(V a, V b) { return _mm256_min_ps(a, b); }
  VTP_INLINE unsigned at_least(V a, V b) { return (unsigned)_mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_GE_OQ)); }
  VTP_INLINE float sum(V a) {
    __m128 m = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    m = _mm_add_ps(m, _mm_movehl_ps(m, m));
    return _mm_cvtss_f32(_mm_add_ss(m, _mm_movehdup_ps(m)));
  }
  VTP_INLINE float top(V a) {
    __m128 m = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    m = _mm_max_ps(m, _mm_movehl_ps(m, m));
    return _mm_cvtss_f32(_mm_max_ss(m, _mm_movehdup_ps(m)));
  }
  VTP_INLINE void mark(int32_t* p, V a, V b, int32_t value) {
    const __m256i more = _mm256_castps_si256(_mm256_cmp_ps(a, b, _CMP_GT_OQ));
    __m256i* to = (__m256i*)p;
    _mm256_storeu_si256(to, _mm256_blendv_epi8(_mm256_loadu_si256(to), _mm256_set1_epi32(value), more));
  }
};

struct Doubles {
  using V = __m256d;
  static constexpr int kLanes = 4, kVectors = 2, kPoints = 6;
  VTP_INLINE V set(double a) { return _mm256_set1_pd(a); }
  VTP_INLINE V load(const double* p) { return _mm256_loadu_pd(p); }
  VTP_INLINE void store(double* p, V a) { _mm256_storeu_pd(p, a); }
  VTP_INLINE V fma(V a, V b, V c) { return _mm256_fmadd_pd(a, b, c); }
  VTP_INLINE V add(V a, V b) { return _mm256_add_pd(a, b); }
  VTP_INLINE V max(V a, V b) { return _mm256_max_pd(a, b); }
  VTP_INLINE unsigned at_least(V a, V b) { return (unsigned)_mm256_movemask_pd(_mm256_cmp_pd(a, b, _CMP_GE_OQ)); }
};

struct Octet {
  __m256d low, high;
  VTP_INLINE Octet set(double a) { return {_mm256_set1_pd(a), _mm256_set1_pd(a)}; }
  VTP_INLINE Octet load(const double* p) { return {_mm256_loadu_pd(p), _mm256_loadu_pd(p + 4)}; }
  VTP_INLINE Octet load(const float* p) {
    return {_mm256_cvtps_pd(_mm_loadu_ps(p)), _mm256_cvtps_pd(_mm_loadu_ps(p + 4))};
  }
  template <class T>
  VTP_INLINE Octet load(const T* p, int n) {
    T some[8] = {0, 0, 0, 0, 0, 0, 0, 0};
    for (int i = 0; i < n; i++) some[i] = p[i];
    return load(some);
  }
  VTP_INLINE Octet add(Octet a, Octet b) { return {_mm256_add_pd(a.low, b.low), _mm256_add_pd(a.high, b.high)}; }
  VTP_INLINE Octet sub(Octet a, Octet b) { return {_mm256_sub_pd(a.low, b.low), _mm256_sub_pd(a.high, b.high)}; }
  VTP_INLINE Octet mul(Octet a, Octet b) { return {_mm256_mul_pd(a.low, b.low), _mm256_mul_pd(a.high, b.high)}; }
  VTP_INLINE void store(double* p, Octet a) {
    _mm256_storeu_pd(p, a.low);
    _mm256_storeu_pd(p + 4, a.high);
  }
  VTP_INLINE void store(float* p, Octet a) {
    _mm_storeu_ps(p, _mm256_cvtpd_ps(a.low));
    _mm_storeu_ps(p + 4, _mm256_cvtpd_ps(a.high));
  }
  VTP_INLINE double total(Octet a) {
    const __m256d four = _mm256_add_pd(a.low, a.high);
    const __m128d two = _mm_add_pd(_mm256_castpd256_pd128(four), _mm256_extractf128_pd(four, 1));
    return _mm_cvtsd_f64(_mm_add_sd(two, _mm_unpackhi_pd(two, two)));
  }
};

VTP_INLINE void transpose4(const float* in, int64_t ld, float* out, int64_t ld_out) {
  __m128 a = _mm_loadu_ps(in), b = _mm_loadu_ps(in + ld), c = _mm_loadu_ps(in + 2 * ld), d = _mm_loadu_ps(in + 3 * ld);
  _MM_TRANSPOSE4_PS(a, b, c, d);
  _mm_storeu_ps(out, a);
  _mm_storeu_ps(out + ld_out, b);
  _mm_storeu_ps(out + 2 * ld_out, c);
  _mm_storeu_ps(out + 3 * ld_out, d);
}

struct Hash {
  __m256i low, high;
  VTP_INLINE Hash load(const void* p) {
    return {_mm256_loadu_si256((const __m256i*)p), _mm256_loadu_si256((const __m256i*)p + 1)};
  }
  VTP_INLINE void store(void* p, Hash a) {
    _mm256_storeu_si256((__m256i*)p, a.low);
    _mm256_storeu_si256((__m256i*)p + 1, a.high);
  }
  VTP_INLINE __m256i mix(__m256i a, __m256i data, __m256i secret) {
    const __m256i key = _mm256_xor_si256(data, secret);
    const __m256i product = _mm256_mul_epu32(key, _mm256_srli_epi64(key, 32));
    return _mm256_add_epi64(a, _mm256_add_epi64(product, _mm256_shuffle_epi32(data, 0x4e)));
  }
  VTP_INLINE Hash mix(Hash a, Hash data, Hash secret) {
    return {mix(a.low, data.low, secret.low), mix(a.high, data.high, secret.high)};
  }
};

}  // namespace
