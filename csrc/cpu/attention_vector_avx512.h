// One AVX-512 register of floats, for the attention kernels. Included by *_avx512*.cpp only.
#pragma once
#include <immintrin.h>
#include <stdint.h>

namespace vtp {
namespace {

struct Vector {
  using Reg = __m512;
  static constexpr int lanes = 16;
  static constexpr int columns = 4;  // registers across in the largest tile: 6 x 4 accumulators of 32
#ifdef __AVX512BF16__
  static constexpr bool pairs = true;
#else
  static constexpr bool pairs = false;
#endif

  static Reg zero() { return _mm512_setzero_ps(); }
  static Reg all(float x) { return _mm512_set1_ps(x); }
  static Reg load(const float* p) { return _mm512_loadu_ps(p); }
  static void store(float* p, Reg x) { _mm512_storeu_ps(p, x); }
  static Reg add(Reg a, Reg b) { return _mm512_add_ps(a, b); }
  static Reg sub(Reg a, Reg b) { return _mm512_sub_ps(a, b); }
  static Reg mul(Reg a, Reg b) { return _mm512_mul_ps(a, b); }
  static Reg div(Reg a, Reg b) { return _mm512_div_ps(a, b); }
  static Reg fma(Reg a, Reg b, Reg c) { return _mm512_fmadd_ps(a, b, c); }    // a * b + c
  static Reg fms(Reg a, Reg b, Reg c) { return _mm512_fmsub_ps(a, b, c); }    // a * b - c
  static Reg fnma(Reg a, Reg b, Reg c) { return _mm512_fnmadd_ps(a, b, c); }  // c - a * b
  static Reg max(Reg a, Reg b) { return _mm512_max_ps(a, b); }                // b if either is NaN
  static float sum(Reg a) { return _mm512_reduce_add_ps(a); }

  // Broadcasts one word (a float, or a pair of bfloat16) and multiplies it into an accumulator.
  static Reg word(const uint32_t* p) { return _mm512_castsi512_ps(_mm512_set1_epi32((int)*p)); }
  static Reg pair_dot(Reg a, Reg b, Reg c) {
#ifdef __AVX512BF16__
    return _mm512_dpbf16_ps(c, (__m512bh)a, (__m512bh)b);
#else
    return fma(a, b, c);  // never called: pairs is false
#endif
  }

  // 2^x for x <= 127 by a minimax polynomial on [-1/2, 1/2]; below -126 it stays 2^-126; NaN stays NaN.
  template <bool rough>
  static Reg exp2(Reg x) {
    x = _mm512_max_ps(_mm512_set1_ps(-126.f), x);
    const Reg whole = _mm512_roundscale_ps(x, 8);
    const Reg rest = _mm512_sub_ps(x, whole);
    Reg p;
    if (rough) {  // relative error 1e-4, for results that are rounded to bfloat16
      p = _mm512_fmadd_ps(_mm512_set1_ps(5.500892967e-2f), rest, _mm512_set1_ps(2.422109720e-1f));
      p = _mm512_fmadd_ps(p, rest, _mm512_set1_ps(6.932829288e-1f));
    } else {  // relative error 9e-8
      p = _mm512_fmadd_ps(_mm512_set1_ps(1.326472708e-3f), rest, _mm512_set1_ps(9.671512862e-3f));
      p = _mm512_fmadd_ps(p, rest, _mm512_set1_ps(5.550733746e-2f));
      p = _mm512_fmadd_ps(p, rest, _mm512_set1_ps(2.402224208e-1f));
      p = _mm512_fmadd_ps(p, rest, _mm512_set1_ps(6.931469776e-1f));
    }
    p = _mm512_fmadd_ps(p, rest, _mm512_set1_ps(1.f));
    return _mm512_scalef_ps(p, whole);
  }
  // x = mantissa * 2^exponent with the mantissa in [0.75, 1.5); x > 0 and normal. NaN stays NaN.
  static Reg split(Reg x, Reg& exponent) {
    const Reg mantissa = _mm512_getmant_ps(x, _MM_MANT_NORM_p75_1p5, _MM_MANT_SIGN_src);
    exponent = _mm512_getexp_ps(_mm512_div_ps(x, mantissa));
    return mantissa;
  }

  static Reg load_bf16(const uint16_t* p) {
    const __m256i bits = _mm256_loadu_si256((const __m256i*)p);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
  }
  // To nearest, ties to even; the result still holds floats.
  static Reg round_bf16(Reg x) {
#ifdef __AVX512BF16__
    // Below 2^-126 the instruction gives zero, which no score can tell.
    const __m256i half = (__m256i)_mm512_cvtneps_pbh(x);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
#else
    const __m512i bits = _mm512_castps_si512(x);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i up = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    const __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
    const __m512i kept = _mm512_and_si512(up, _mm512_set1_epi32((int)0xffff0000u));
    return _mm512_castsi512_ps(_mm512_mask_mov_epi32(kept, nan, _mm512_set1_epi32(0x7fc00000)));
#endif
  }
  static void store_bf16(uint16_t* p, Reg x) {
#ifdef __AVX512BF16__
    _mm256_storeu_si256((__m256i*)p, (__m256i)_mm512_cvtneps_pbh(x));
#else
    const __m512i bits = _mm512_castps_si512(round_bf16(x));
    _mm256_storeu_si256((__m256i*)p, _mm512_cvtepi32_epi16(_mm512_srli_epi32(bits, 16)));
#endif
  }
  // Two rows, rounded and interleaved to words: the first row's value in the low half.
  static void store_pairs(uint32_t* p, Reg first, Reg second) {
#ifdef __AVX512BF16__
    const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23,
                                           7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    const __m512i both = (__m512i)_mm512_cvtne2ps_pbh(second, first);
    _mm512_storeu_si512(p, _mm512_permutexvar_epi16(order, both));
#else
    (void)p, (void)first, (void)second;  // never called: pairs is false
#endif
  }
  // Words whose low half is a row's value and whose high half is the next row's.
  static void interleave_bf16(uint32_t* p, const uint16_t* first, const uint16_t* second) {
    const __m512i low = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)first));
    const __m512i high =
        second ? _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)second)) : _mm512_setzero_si512();
    _mm512_storeu_si512(p, _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
  }

  // Transposes 16 x 16 words; rows of the source beyond `rows` count as zero.
  static inline __attribute__((always_inline)) void transpose(const uint32_t* source, int64_t stride,
                                                              int rows, uint32_t* target,
                                                              int64_t target_stride) {
    __m512i r[16], t[16];
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++)
      r[i] = i < rows ? _mm512_loadu_si512(source + i * stride) : _mm512_setzero_si512();
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) {
      t[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
      t[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 16; i += 4) {
      r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
      r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
      r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
      r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
      const __m512i a = _mm512_shuffle_i32x4(r[j], r[4 + j], 0x88);
      const __m512i b = _mm512_shuffle_i32x4(r[8 + j], r[12 + j], 0x88);
      const __m512i c = _mm512_shuffle_i32x4(r[j], r[4 + j], 0xdd);
      const __m512i d = _mm512_shuffle_i32x4(r[8 + j], r[12 + j], 0xdd);
      _mm512_storeu_si512(target + j * target_stride, _mm512_shuffle_i32x4(a, b, 0x88));
      _mm512_storeu_si512(target + (4 + j) * target_stride, _mm512_shuffle_i32x4(c, d, 0x88));
      _mm512_storeu_si512(target + (8 + j) * target_stride, _mm512_shuffle_i32x4(a, b, 0xdd));
      _mm512_storeu_si512(target + (12 + j) * target_stride, _mm512_shuffle_i32x4(c, d, 0xdd));
    }
  }
};

}  // namespace
}  // namespace vtp
