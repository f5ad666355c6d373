#include "tensor_core.h"

#include <cmath>
#include <cstring>

#include "block.h"

namespace shim {

namespace {

float from_bits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

uint32_t to_bits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return bits;
}

// Towards zero, to 24 significant bits.
float cut(double value) {
  uint64_t bits;
  std::memcpy(&bits, &value, 8);
  bits &= ~((uint64_t{1} << 29) - 1);
  std::memcpy(&value, &bits, 8);
  return static_cast<float>(value);
}

// sum + products[0..n), as one step of the tensor core.
float accumulate(float sum, const double* products, int n) {
  double largest = std::fabs(static_cast<double>(sum));
  double plain = sum;
  for (int i = 0; i < n; ++i) {
    const double size = std::fabs(products[i]);
    if (size > largest) largest = size;
    plain += products[i];
  }
  if (!std::isfinite(plain) || largest < 1e-30) return static_cast<float>(plain);
  uint64_t bits;
  std::memcpy(&bits, &largest, 8);
  const uint64_t exponent = bits >> 52;
  // 2 ** (23 - exponent of the largest) and its inverse.
  const uint64_t up_bits = (uint64_t{1023} + 23 + 1023 - exponent) << 52;
  const uint64_t down_bits = (exponent - 23) << 52;
  double up, down;
  std::memcpy(&up, &up_bits, 8);
  std::memcpy(&down, &down_bits, 8);
  int64_t total = static_cast<int64_t>(sum * up);
  for (int i = 0; i < n; ++i) total += static_cast<int64_t>(products[i] * up);
  return cut(static_cast<double>(total) * down);
}

struct Mma {
  const uint32_t* a;
  const uint32_t* b;
  float* c;
};

// K columns of A (16, K) and rows of B (K, 8), already as floats; C (16, 8) is spread over the lanes.
template <int K, int Chunk>
void multiply(void** lanes, const float (&a)[16][K], const float (&b)[8][K]) {
  for (int lane = 0; lane < 32; ++lane) {
    float* c = static_cast<Mma*>(lanes[lane])->c;
    for (int i = 0; i < 4; ++i) {
      const int row = lane / 4 + 8 * (i / 2), column = lane % 4 * 2 + i % 2;
      for (int k = 0; k < K; k += Chunk) {
        double products[Chunk];
        for (int j = 0; j < Chunk; ++j) products[j] = static_cast<double>(a[row][k + j]) * b[column][k + j];
        c[i] = accumulate(c[i], products, Chunk);
      }
    }
  }
}

template <class Convert>
void multiply_16(void** lanes, Convert convert) {
  float a[16][16], b[8][16];
  for (int lane = 0; lane < 32; ++lane) {
    const auto* m = static_cast<const Mma*>(lanes[lane]);
    const int group = lane / 4, pair = lane % 4 * 2;
    for (int i = 0; i < 4; ++i) {
      float* to = &a[group + 8 * (i % 2)][pair + 8 * (i / 2)];
      to[0] = convert(static_cast<uint16_t>(m->a[i]));
      to[1] = convert(static_cast<uint16_t>(m->a[i] >> 16));
    }
    for (int i = 0; i < 2; ++i) {
      float* to = &b[group][pair + 8 * i];
      to[0] = convert(static_cast<uint16_t>(m->b[i]));
      to[1] = convert(static_cast<uint16_t>(m->b[i] >> 16));
    }
  }
  multiply<16, 8>(lanes, a, b);
}

struct Load {
  const void* row;
  uint32_t* d;
};

template <bool Transposed>
void load(void** lanes) {
  for (int matrix = 0; matrix < 4; ++matrix) {
    uint16_t m[8][8];
    for (int row = 0; row < 8; ++row) {
      const void* from = static_cast<const Load*>(lanes[8 * matrix + row])->row;
      if (!in_shared(from, 16)) fail("ldmatrix outside of shared memory");
      if (reinterpret_cast<uintptr_t>(from) % 16 != 0) fail("ldmatrix from a misaligned row");
      std::memcpy(m[row], from, 16);
    }
    for (int lane = 0; lane < 32; ++lane) {
      const int row = lane / 4, column = lane % 4 * 2;
      const uint32_t low = Transposed ? m[column][row] : m[row][column];
      const uint32_t high = Transposed ? m[column + 1][row] : m[row][column + 1];
      static_cast<Load*>(lanes[lane])->d[matrix] = low | high << 16;
    }
  }
}

}  // namespace

float bf16_to_float(uint16_t bits) { return from_bits(static_cast<uint32_t>(bits) << 16); }

uint16_t float_to_bf16(float value) {
  uint32_t bits = to_bits(value);
  if (std::isnan(value)) return 0x7FFF;
  bits += 0x7FFF + ((bits >> 16) & 1);
  return static_cast<uint16_t>(bits >> 16);
}

float half_to_float(uint16_t bits) {
  const int exponent = bits >> 10 & 31, mantissa = bits & 1023;
  float value = exponent == 0    ? std::ldexp(static_cast<float>(mantissa), -24)
                : exponent == 31 ? (mantissa != 0 ? NAN : INFINITY)
                                 : std::ldexp(static_cast<float>(mantissa + 1024), exponent - 25);
  return (bits & 0x8000) != 0 ? -value : value;
}

uint16_t float_to_half(float value) {
  const uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  const float size = std::fabs(value);
  if (std::isnan(value)) return 0x7FFF;
  if (size >= 65520.0f) return sign | 0x7C00;
  if (size == 0.0f) return sign;
  int exponent;
  std::frexp(size, &exponent);
  const int unit = exponent - 11 < -24 ? -24 : exponent - 11;  // of the last bit
  const float steps = std::nearbyint(std::ldexp(size, -unit));  // at most 2048
  const int whole = static_cast<int>(steps);
  if (unit == -24) return static_cast<uint16_t>(sign | whole);  // denormal, or 1024: the first normal number
  return static_cast<uint16_t>(sign | (((unit + 24) << 10) + whole));
}

uint32_t float_to_tf32(float value) {
  if (!std::isfinite(value)) return to_bits(value);
  return (to_bits(value) + 0x1000) & ~0x1FFFu;
}

void mma_m16n8k16(const uint32_t (&a)[4], const uint32_t (&b)[2], float (&c)[4], bool half) {
  Mma mine{a, b, c};
  if (half) {
    warp_collective("mma.m16n8k16.f16", 0xFFFFFFFFu, &mine,
                    [](void** lanes) { multiply_16(lanes, half_to_float); });
  } else {
    warp_collective("mma.m16n8k16.bf16", 0xFFFFFFFFu, &mine,
                    [](void** lanes) { multiply_16(lanes, bf16_to_float); });
  }
}

void mma_m16n8k8(const uint32_t (&a)[4], const uint32_t (&b)[2], float (&c)[4]) {
  Mma mine{a, b, c};
  warp_collective("mma.m16n8k8.tf32", 0xFFFFFFFFu, &mine, [](void** lanes) {
    float a[16][8], b[8][8];
    for (int lane = 0; lane < 32; ++lane) {
      const auto* m = static_cast<const Mma*>(lanes[lane]);
      const int group = lane / 4, column = lane % 4;
      for (int i = 0; i < 4; ++i) a[group + 8 * (i % 2)][column + 4 * (i / 2)] = from_bits(m->a[i] & ~0x1FFFu);
      for (int i = 0; i < 2; ++i) b[group][column + 4 * i] = from_bits(m->b[i] & ~0x1FFFu);
    }
    multiply<8, 4>(lanes, a, b);
  });
}

void load_matrices(uint32_t (&d)[4], const void* row, bool transposed) {
  Load mine{row, d};
  if (transposed) {
    warp_collective("ldmatrix.x4.trans", 0xFFFFFFFFu, &mine, load<true>);
  } else {
    warp_collective("ldmatrix.x4", 0xFFFFFFFFu, &mine, load<false>);
  }
}

}  // namespace shim
