// One AVX2 register of floats, for the attention kernels; see attention_vector_avx512.h. Included by
// *_avx2.cpp only. There is no bfloat16 arithmetic: such rows are widened on their way into the panels.
#pragma once
#include <immintrin.h>
#include <stdint.h>

namespace vtp {
namespace {

struct Vector {
  using Reg = __m256;
  static constexpr int lanes = 8;
  static constexpr int columns = 2;  // 6 x 2 accumulators of 16 registers
  static constexpr bool pairs = false;

  static Reg zero() { return _mm256_setzero_ps(); }
  static Reg all(float x) { return _mm256_set1_ps(x); }
  static Reg load(const float* p) { return _mm256_loadu_ps(p); }
  static void store(float* p, Reg x) { _mm256_storeu_ps(p, x); }
  static Reg add(Reg a, Reg b) { return _mm256_add_ps(a, b); }
  static Reg sub(Reg a, Reg b) { return _mm256_sub_ps(a, b); }
  static Reg mul(Reg a, Reg b) { return _mm256_mul_ps(a, b); }
  static Reg div(Reg a, Reg b) { return _mm256_div_ps(a, b); }
  static Reg fma(Reg a, Reg b, Reg c) { return _mm256_fmadd_ps(a, b, c); }
  static Reg fms(Reg a, Reg b, Reg c) { return _mm256_fmsub_ps(a, b, c); }
  static Reg fnma(Reg a, Reg b, Reg c) { return _mm256_fnmadd_ps(a, b, c); }
  static Reg max(Reg a, Reg b) { return _mm256_max_ps(a, b); }
  static float sum(Reg a) {
    __m128 x = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    x = _mm_add_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)));
  }

  static Reg word(const uint32_t* p) { return _mm256_broadcast_ss((const float*)p); }
  static Reg pair_dot(Reg a, Reg b, Reg c) { return fma(a, b, c); }  // never called

  template <bool rough>
  static Reg exp2(Reg x) {
    x = _mm256_max_ps(all(-126.f), x);
    const Reg whole = _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const Reg rest = _mm256_sub_ps(x, whole);
    Reg p = fma(all(1.326472708e-3f), rest, all(9.671512862e-3f));
    p = fma(p, rest, all(5.550733746e-2f));
    p = fma(p, rest, all(2.402224208e-1f));
    p = fma(p, rest, all(6.931469776e-1f));
    p = fma(p, rest, all(1.f));
    const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(whole), _mm256_set1_epi32(127));
    return _mm256_mul_ps(p, _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23)));
  }
  static Reg split(Reg x, Reg& exponent) {
    // The bits of 0.75 taken off, what is left above bit 23 is the exponent for a mantissa in [0.75, 1.5).
    const __m256i bits = _mm256_castps_si256(x);
    const __m256i power = _mm256_srai_epi32(_mm256_sub_epi32(bits, _mm256_set1_epi32(0x3f400000)), 23);
    exponent = _mm256_add_ps(_mm256_cvtepi32_ps(power), _mm256_sub_ps(x, x));  // NaN and infinity become NaN
    return _mm256_castsi256_ps(_mm256_sub_epi32(bits, _mm256_slli_epi32(power, 23)));
  }

  static Reg load_bf16(const uint16_t* p) {
    const __m128i bits = _mm_loadu_si128((const __m128i*)p);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
  }
  static Reg round_bf16(Reg x) {
    const __m256i bits = _mm256_castps_si256(x);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i up = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    const Reg kept = _mm256_castsi256_ps(_mm256_and_si256(up, _mm256_set1_epi32((int)0xffff0000u)));
    const Reg nan = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fc00000));
    return _mm256_blendv_ps(kept, nan, _mm256_cmp_ps(x, x, _CMP_UNORD_Q));
  }
  static void store_bf16(uint16_t* p, Reg x) {
    const __m256i high = _mm256_srli_epi32(_mm256_castps_si256(round_bf16(x)), 16);
    const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(high, high), 0x08);
    _mm_storeu_si128((__m128i*)p, _mm256_castsi256_si128(packed));
  }
  static void store_pairs(uint32_t*, Reg, Reg) {}                              // never called
  static void interleave_bf16(uint32_t*, const uint16_t*, const uint16_t*) {}  // never called

  static inline __attribute__((always_inline)) void transpose(const uint32_t* source, int64_t stride,
                                                              int rows, uint32_t* target,
                                                              int64_t target_stride) {
    __m256 r[8], t[8];
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) r[i] = i < rows ? load((const float*)(source + i * stride)) : zero();
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
      t[2 * i] = _mm256_unpacklo_ps(r[2 * i], r[2 * i + 1]);
      t[2 * i + 1] = _mm256_unpackhi_ps(r[2 * i], r[2 * i + 1]);
    }
#pragma GCC unroll 2
    for (int i = 0; i < 8; i += 4) {
      r[i] = _mm256_shuffle_ps(t[i], t[i + 2], 0x44);
      r[i + 1] = _mm256_shuffle_ps(t[i], t[i + 2], 0xee);
      r[i + 2] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0x44);
      r[i + 3] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0xee);
    }
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
      store((float*)(target + j * target_stride), _mm256_permute2f128_ps(r[j], r[4 + j], 0x20));
      store((float*)(target + (4 + j) * target_stride), _mm256_permute2f128_ps(r[j], r[4 + j], 0x31));
    }
  }
};

}  // namespace
}  // namespace vtp
