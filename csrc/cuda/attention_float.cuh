// Attention forward for float32: each product is three tf32 products of rounded values and their remainders.
//
// With x = high + low + (less than 2^-22 |x|), a b = high high + high low + low high: close to float32 at a third of
// the tensor cores' tf32 speed. Infinite inputs give NaN.
#pragma once

#include "attention_problem.cuh"

namespace vtp::cuda {

template <int Width>
struct FloatAttention {
  static constexpr int kThreads = 128;
  static constexpr int kQueries = 64;  // 16 a warp
  static constexpr int kKeys = 32;
  static constexpr int kPitch = (Width + 4) * 4;  // bytes of a row; 4 more floats spread the rows over the banks
  static constexpr int kStages = 2;
  static constexpr int kQueryBytes = kQueries * kPitch;
  static constexpr int kStageBytes = 2 * kKeys * kPitch;
  static constexpr int kShared = kQueryBytes + kStages * kStageBytes;
};

template <int N>
struct Split {
  uint32_t high[N], low[N];

  __device__ void set(int i, float x) {
    high[i] = to_tf32(x);
    low[i] = to_tf32(x - bits_to_float(high[i]));
  }
};

__device__ __forceinline__ void mma_split(float (&c)[4], const Split<4>& a, const Split<2>& b) {
  mma8(c, a.low, b.high);
  mma8(c, a.high, b.low);
  mma8(c, a.high, b.high);
}

template <int Width>
__global__ void __launch_bounds__(128, 1) attention_float(Attention problem) {
  using A = FloatAttention<Width>;
  constexpr int kRow = A::kPitch / 4;
  VTP_SHARED(memory);
  const Part part = Part::of(problem, blockIdx.x, A::kQueries);
  if (part.first_query >= part.length) return;  // the whole block
  const int warp = static_cast<int>(threadIdx.x / 32), lane = static_cast<int>(threadIdx.x % 32);
  const int group = lane / 4, inner = lane % 4;
  const float* q = static_cast<const float*>(problem.q) + part.offset(problem, problem.q_strides);
  const float* k = static_cast<const float*>(problem.k) + part.offset(problem, problem.k_strides);
  const float* v = static_cast<const float*>(problem.v) + part.offset(problem, problem.v_strides);
  const int steps = (part.length + A::kKeys - 1) / A::kKeys;
  const float* queries = reinterpret_cast<const float*>(memory) + (warp * 16 + group) * kRow + inner;

  stage_tokens<float, Width, A::kPitch, A::kThreads>(memory, q, problem.q_strides.token, part.first_query,
                                                     A::kQueries, part.length);
  auto fetch = [&](int step) {
    if (step < steps) {
      unsigned char* stage = memory + A::kQueryBytes + step % A::kStages * A::kStageBytes;
      const int first = step * A::kKeys;
      stage_tokens<float, Width, A::kPitch, A::kThreads>(stage, k, problem.k_strides.token, first, A::kKeys,
                                                         part.length);
      stage_tokens<float, Width, A::kPitch, A::kThreads>(stage + A::kKeys * A::kPitch, v, problem.v_strides.token,
                                                         first, A::kKeys, part.length);
    }
    copy_commit();
  };

  const float scale = problem.scale * kLog2E;
  Softmax softmax[2];
  float out[Width / 8][4] = {};
  fetch(0);
  for (int step = 0; step < steps; ++step) {
    copy_wait<0>();
    __syncthreads();
    fetch(step + 1);
    const float* keys = reinterpret_cast<const float*>(memory + A::kQueryBytes + step % A::kStages * A::kStageBytes);
    const float* values = keys + A::kKeys * kRow;

    float score[A::kKeys / 8][4] = {};
    for (int d = 0; d < Width; d += 8) {
      Split<4> a;
      VTP_UNROLL
      for (int i = 0; i < 4; ++i) a.set(i, queries[i % 2 * 8 * kRow + d + i / 2 * 4]);
      VTP_UNROLL
      for (int n = 0; n < A::kKeys / 8; ++n) {
        Split<2> b;
        VTP_UNROLL
        for (int i = 0; i < 2; ++i) b.set(i, keys[(n * 8 + group) * kRow + d + inner + i * 4]);
        mma_split(score[n], a, b);
      }
    }

    const int left = part.length - step * A::kKeys;  // keys from here on
    VTP_UNROLL
    for (int half = 0; half < 2; ++half) {
      float largest = -INFINITY;
      VTP_UNROLL
      for (int n = 0; n < A::kKeys / 8; ++n) {
        VTP_UNROLL
        for (int i = 0; i < 2; ++i) {
          float& s = score[n][half * 2 + i];
          s = n * 8 + inner * 2 + i < left ? s * scale : -INFINITY;
          largest = fmaxf(largest, s);
        }
      }
      const float factor = softmax[half].raise(largest);
      VTP_UNROLL
      for (int n = 0; n < A::kKeys / 8; ++n) {
        VTP_UNROLL
        for (int i = 0; i < 2; ++i) score[n][half * 2 + i] = softmax[half].weigh(score[n][half * 2 + i]);
      }
      VTP_UNROLL
      for (int n = 0; n < Width / 8; ++n) {
        out[n][half * 2] *= factor;
        out[n][half * 2 + 1] *= factor;
      }
    }

    // A thread has the scores of keys 2t and 2t + 1, but operand a wants columns t and t + 4: the order of keys is
    // free, so key 2t takes the place of t and 2t + 1 that of t + 4, in a and in b.
    VTP_UNROLL
    for (int s = 0; s < A::kKeys / 8; ++s) {
      Split<4> p;
      VTP_UNROLL
      for (int i = 0; i < 4; ++i) p.set(i, score[s][i % 2 * 2 + i / 2]);
      VTP_UNROLL
      for (int n = 0; n < Width / 8; ++n) {
        Split<2> b;
        VTP_UNROLL
        for (int i = 0; i < 2; ++i) b.set(i, values[(s * 8 + inner * 2 + i) * kRow + n * 8 + group]);
        mma_split(out[n], p, b);
      }
    }
  }

  float* to = static_cast<float*>(problem.out) + part.offset(problem, problem.out_strides);
  float* lse = problem.lse + part.offset(problem, problem.lse_strides);
  VTP_UNROLL
  for (int half = 0; half < 2; ++half) {
    Softmax& row = softmax[half];
    row.finish();
    const int query = part.first_query + warp * 16 + half * 8 + group;
    if (query >= part.length) continue;
    const float factor = 1.0f / row.sum;
    VTP_UNROLL
    for (int n = 0; n < Width / 8; ++n) {
      float* two = to + query * problem.out_strides.token + n * 8 + inner * 2;
      two[0] = out[n][half * 2] * factor;
      two[1] = out[n][half * 2 + 1] * factor;
    }
    if (inner == 0) lse[query * problem.lse_strides.token] = row.lse();
  }
}

}  // namespace vtp::cuda
