// AVX-512 registers for the search. For files compiled with AVX-512 only.
#pragma once
#include <immintrin.h>
#include <stdint.h>

namespace {

#define VTP_INLINE static inline __attribute__((always_inline))

struct Floats {
  using V = __m512;
  static constexpr int kLanes = 16, kVectors = 4, kPoints = 6;  // register tile: kPoints rows x kVectors * kLanes codes
  VTP_INLINE V set(float a) { return _mm512_set1_ps(a); }
  VTP_INLINE V load(const float* p) { return _mm512_loadu_ps(p); }
  VTP_INLINE void store(float* p, V a) { _mm512_storeu_ps(p, a); }
  VTP_INLINE V fma(V a, V b, V c) { return _mm512_fmadd_ps(a, b, c); }
  VTP_INLINE V sub(V a, V b) { return _mm512_sub_ps(a, b); }
  VTP_INLINE V mul(V a, V b) { return _mm512_mul_ps(a, b); }
  VTP_INLINE V max(V a, V b) { return _mm512_max_ps(a, b); }
  VTP_INLINE V min(V a, V b) { return _mm512_min_ps(a, b); }
  VTP_INLINE unsigned at_least(V a, V b) { return _mm512_cmp_ps_mask(a, b, _CMP_GE_OQ); }
  VTP_INLINE float sum(V a) { return _mm512_reduce_add_ps(a); }
  VTP_INLINE float top(V a) { return _mm512_reduce_max_ps(a); }
  // p[lane] = value where a > b
  VTP_INLINE void mark(int32_t* p, V a, V b, int32_t value) {
    _mm512_mask_storeu_epi32(p, _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ), _mm512_set1_epi32(value));
  }
};

struct Doubles {
  using V = __m512d;
  static constexpr int kLanes = 8, kVectors = 4, kPoints = 6;
  VTP_INLINE V set(double a) { return _mm512_set1_pd(a); }
  VTP_INLINE V load(const double* p) { return _mm512_loadu_pd(p); }
  VTP_INLINE void store(double* p, V a) { _mm512_storeu_pd(p, a); }
  VTP_INLINE V fma(V a, V b, V c) { return _mm512_fmadd_pd(a, b, c); }
  VTP_INLINE V add(V a, V b) { return _mm512_add_pd(a, b); }
  VTP_INLINE V max(V a, V b) { return _mm512_max_pd(a, b); }
  VTP_INLINE unsigned at_least(V a, V b) { return _mm512_cmp_pd_mask(a, b, _CMP_GE_OQ); }
};

// The eight lanes of the defined sum.
struct Octet {
  __m512d v;
  VTP_INLINE Octet set(double a) { return {_mm512_set1_pd(a)}; }
  VTP_INLINE Octet load(const double* p) { return {_mm512_loadu_pd(p)}; }
  VTP_INLINE Octet load(const float* p) { return {_mm512_cvtps_pd(_mm256_loadu_ps(p))}; }
  // The first n < 8 values, then zeros.
  VTP_INLINE Octet load(const double* p, int n) { return {_mm512_maskz_loadu_pd((__mmask8)((1u << n) - 1), p)}; }
  VTP_INLINE Octet load(const float* p, int n) {
    return {_mm512_cvtps_pd(_mm256_maskz_loadu_ps((__mmask8)((1u << n) - 1), p))};
  }
  VTP_INLINE Octet add(Octet a, Octet b) { return {_mm512_add_pd(a.v, b.v)}; }
  VTP_INLINE Octet sub(Octet a, Octet b) { return {_mm512_sub_pd(a.v, b.v)}; }
  VTP_INLINE Octet mul(Octet a, Octet b) { return {_mm512_mul_pd(a.v, b.v)}; }
  VTP_INLINE void store(double* p, Octet a) { _mm512_storeu_pd(p, a.v); }
  VTP_INLINE void store(float* p, Octet a) { _mm256_storeu_ps(p, _mm512_cvtpd_ps(a.v)); }
  VTP_INLINE double total(Octet a) {
    const __m256d four = _mm256_add_pd(_mm512_castpd512_pd256(a.v), _mm512_extractf64x4_pd(a.v, 1));
    const __m128d two = _mm_add_pd(_mm256_castpd256_pd128(four), _mm256_extractf128_pd(four, 1));
    return _mm_cvtsd_f64(_mm_add_sd(two, _mm_unpackhi_pd(two, two)));
  }
};

// Four rows become four columns: out[d][0..3] for d < 4.
VTP_INLINE void transpose4(const float* in, int64_t ld, float* out, int64_t ld_out) {
  __m128 a = _mm_loadu_ps(in), b = _mm_loadu_ps(in + ld), c = _mm_loadu_ps(in + 2 * ld), d = _mm_loadu_ps(in + 3 * ld);
  _MM_TRANSPOSE4_PS(a, b, c, d);
  _mm_storeu_ps(out, a);
  _mm_storeu_ps(out + ld_out, b);
  _mm_storeu_ps(out + 2 * ld_out, c);
  _mm_storeu_ps(out + 3 * ld_out, d);
}

// The state of a checksum: eight 64-bit lanes.
struct Hash {
  __m512i v;
  VTP_INLINE Hash load(const void* p) { return {_mm512_loadu_si512(p)}; }
  VTP_INLINE void store(void* p, Hash a) { _mm512_storeu_si512(p, a.v); }
  // a + swapped(data) + low32(key) * high32(key), key = data ^ secret
  VTP_INLINE Hash mix(Hash a, Hash data, Hash secret) {
    const __m512i key = _mm512_xor_si512(data.v, secret.v);
    const __m512i product = _mm512_mul_epu32(key, _mm512_srli_epi64(key, 32));
    return {_mm512_add_epi64(a.v, _mm512_add_epi64(product, _mm512_shuffle_epi32(data.v, _MM_PERM_BADC)))};
  }
};

}  // namespace
