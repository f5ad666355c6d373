// Four-lane vectors of the compiler (GCC and Clang, any architecture) for the search.
#pragma once
#include <stdint.h>
#include <string.h>

namespace {

#define VTP_INLINE static inline __attribute__((always_inline))

struct Floats {
  typedef float V __attribute__((vector_size(16)));
  typedef int32_t Mask __attribute__((vector_size(16)));
  static constexpr int kLanes = 4, kVectors = 2, kPoints = 4;
  VTP_INLINE V set(float a) { return V{a, a, a, a}; }
  VTP_INLINE V load(const float* p) {
    V a;
    memcpy(&a, p, sizeof a);
    return a;
  }
  VTP_INLINE void store(float* p, V a) { memcpy(p, &a, sizeof a); }
  VTP_INLINE V fma(V a, V b, V c) { return a * b + c; }
  VTP_INLINE V sub(V a, V b) { return a - b; }
  VTP_INLINE V mul(V a, V b) { return a * b; }
  VTP_INLINE V max(V a, V b) { return a > b ? a : b; }
  VTP_INLINE V min(V a, V b) { return a < b ? a : b; }
  VTP_INLINE unsigned at_least(V a, V b) {
    const Mask m = a >= b;
    return (m[0] & 1u) | (m[1] & 2u) | (m[2] & 4u) | (m[3] & 8u);
  }
  VTP_INLINE float sum(V a) { return (a[0] + a[2]) + (a[1] + a[3]); }
  VTP_INLINE float top(V a) {
    const float b = a[0] > a[1] ? a[0] : a[1], c = a[2] > a[3] ? a[2] : a[3];
    return b > c ? b : c;
  }
  VTP_INLINE void mark(int32_t* p, V a, V b, int32_t value) {
    Mask old;
    memcpy(&old, p, sizeof old);
    const Mask merged = a > b ? Mask{value, value, value, value} : old;
    memcpy(p, &merged, sizeof merged);
  }
};

struct Doubles {
  typedef double V __attribute__((vector_size(16)));
  typedef int64_t Mask __attribute__((vector_size(16)));
  static constexpr int kLanes = 2, kVectors = 2, kPoints = 4;
  VTP_INLINE V set(double a) { return V{a, a}; }
  VTP_INLINE V load(const double* p) {
    V a;
    memcpy(&a, p, sizeof a);
    return a;
  }
  VTP_INLINE void store(double* p, V a) { memcpy(p, &a, sizeof a); }
  VTP_INLINE V fma(V a, V b, V c) { return a * b + c; }
  VTP_INLINE V add(V a, V b) { return a + b; }
  VTP_INLINE V max(V a, V b) { return a > b ? a : b; }
  VTP_INLINE unsigned at_least(V a, V b) {
    const Mask m = a >= b;
    return (unsigned)((m[0] & 1) | (m[1] & 2));
  }
};

struct Octet {
  double v[8];
  VTP_INLINE Octet set(double a) { return {{a, a, a, a, a, a, a, a}}; }
  template <class T>
  VTP_INLINE Octet load(const T* p) {
    Octet r;
    for (int i = 0; i < 8; i++) r.v[i] = p[i];
    return r;
  }
  template <class T>
  VTP_INLINE Octet load(const T* p, int n) {
    Octet r = set(0);
    for (int i = 0; i < n; i++) r.v[i] = p[i];
    return r;
  }
  VTP_INLINE Octet add(Octet a, Octet b) {
    for (int i = 0; i < 8; i++) a.v[i] += b.v[i];
    return a;
  }
  VTP_INLINE Octet sub(Octet a, Octet b) {
    for (int i = 0; i < 8; i++) a.v[i] -= b.v[i];
    return a;
  }
  VTP_INLINE Octet mul(Octet a, Octet b) {
    for (int i = 0; i < 8; i++) a.v[i] *= b.v[i];
    return a;
  }
  template <class T>
  VTP_INLINE void store(T* p, Octet a) {
    for (int i = 0; i < 8; i++) p[i] = (T)a.v[i];
  }
  VTP_INLINE double total(Octet a) {
    double four[4];
    for (int i = 0; i < 4; i++) four[i] = a.v[i] + a.v[i + 4];
    return (four[0] + four[2]) + (four[1] + four[3]);
  }
};

VTP_INLINE void transpose4(const float* in, int64_t ld, float* out, int64_t ld_out) {
  for (int i = 0; i < 4; i++)
    for (int j = 0; j < 4; j++) out[i * ld_out + j] = in[j * ld + i];
}

struct Hash {
  uint64_t v[8];
  VTP_INLINE Hash load(const void* p) {
    Hash r;
    memcpy(&r, p, sizeof r);
    return r;
  }
  VTP_INLINE void store(void* p, Hash a) { memcpy(p, &a, sizeof a); }
  VTP_INLINE Hash mix(Hash a, Hash data, Hash secret) {
    for (int i = 0; i < 8; i++) {
      const uint64_t key = data.v[i] ^ secret.v[i];
      a.v[i] += (key & 0xffffffffu) * (key >> 32) + data.v[i ^ 1];
    }
    return a;
  }
};

}  // namespace
