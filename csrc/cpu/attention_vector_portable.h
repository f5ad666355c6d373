// Four floats in the compiler's own vector type, for the attention kernels on any processor; see
// attention_vector_avx512.h. Products and sums are rounded apart: not every processor can fuse them.
#pragma once
#include <stdint.h>
#include <string.h>

namespace vtp {
namespace {

struct Vector {
  typedef float Reg __attribute__((vector_size(16)));
  typedef int32_t Bits __attribute__((vector_size(16)));
  static constexpr int lanes = 4;
  static constexpr int columns = 2;
  static constexpr bool pairs = false;

  static Reg all(float x) { return Reg{x, x, x, x}; }
  static Bits all_bits(int32_t x) { return Bits{x, x, x, x}; }
  static Reg zero() { return all(0.f); }
  static Reg load(const float* p) {
    Reg x;
    memcpy(&x, p, sizeof x);
    return x;
  }
  static void store(float* p, Reg x) { memcpy(p, &x, sizeof x); }
  static Reg add(Reg a, Reg b) { return a + b; }
  static Reg sub(Reg a, Reg b) { return a - b; }
  static Reg mul(Reg a, Reg b) { return a * b; }
  static Reg div(Reg a, Reg b) { return a / b; }
  static Reg fma(Reg a, Reg b, Reg c) { return a * b + c; }
  static Reg fms(Reg a, Reg b, Reg c) { return a * b - c; }
  static Reg fnma(Reg a, Reg b, Reg c) { return c - a * b; }
  static Reg max(Reg a, Reg b) { return a > b ? a : b; }
  static float sum(Reg a) { return (a[0] + a[2]) + (a[1] + a[3]); }

  static Reg word(const uint32_t* p) { return all(*(const float*)p); }
  static Reg pair_dot(Reg a, Reg b, Reg c) { return fma(a, b, c); }  // never called

  template <bool rough>
  static Reg exp2(Reg x) {
    x = max(all(-126.f), x);
    // The sum's last bit is worth 1: it holds the nearest integer.
    const Reg shifted = x + all(12582912.f);
    const Reg rest = x - (shifted - all(12582912.f));
    Reg p = fma(all(1.326472708e-3f), rest, all(9.671512862e-3f));
    p = fma(p, rest, all(5.550733746e-2f));
    p = fma(p, rest, all(2.402224208e-1f));
    p = fma(p, rest, all(6.931469776e-1f));
    p = fma(p, rest, all(1.f));
    return p * (Reg)(((Bits)shifted + all_bits(127 - 0x4b400000)) << 23);
  }
  static Reg split(Reg x, Reg& exponent) {
    // The bits of 0.75 taken off, what is left above bit 23 is the exponent for a mantissa in [0.75, 1.5).
    const Bits power = ((Bits)x - all_bits(0x3f400000)) >> 23;
    exponent = __builtin_convertvector(power, Reg) + (x - x);  // NaN and infinity become NaN
    return (Reg)((Bits)x - (power << 23));
  }

  static Reg load_bf16(const uint16_t* p) {
    Bits bits;
    for (int i = 0; i < lanes; i++) bits[i] = (int32_t)((uint32_t)p[i] << 16);
    return (Reg)bits;
  }
  static Reg round_bf16(Reg x) {
    const Bits bits = (Bits)x;
    const Bits up = bits + ((bits >> 16) & 1) + 0x7fff;
    return (Reg)(x == x ? (up & all_bits((int32_t)0xffff0000u)) : all_bits(0x7fc00000));
  }
  static void store_bf16(uint16_t* p, Reg x) {
    const Bits bits = (Bits)round_bf16(x);
    for (int i = 0; i < lanes; i++) p[i] = (uint16_t)((uint32_t)bits[i] >> 16);
  }
  static void store_pairs(uint32_t*, Reg, Reg) {}                              // never called
  static void interleave_bf16(uint32_t*, const uint16_t*, const uint16_t*) {}  // never called

  static void transpose(const uint32_t* source, int64_t stride, int rows, uint32_t* target,
                        int64_t target_stride) {
    for (int j = 0; j < lanes; j++)
      for (int i = 0; i < lanes; i++) target[j * target_stride + i] = i < rows ? source[i * stride + j] : 0;
  }
};

}  // namespace
}  // namespace vtp
