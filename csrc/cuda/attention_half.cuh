// Attention forward for bfloat16 and float16: tensor cores, online softmax, keys and values streamed by cp.async.
#pragma once

#include "attention_problem.cuh"

namespace vtp::cuda {

// Four warps; each has `Tiles` times 16 queries, all keys of a step, and keeps its queries in registers.
template <int Width, int Tiles>
struct HalfAttention {
  static constexpr int kThreads = 128;
  static constexpr int kQueries = 64 * Tiles;
  static constexpr int kKeys = Width * Tiles > 64 && Tiles > 1 ? 32 : 64;  // what the registers hold
  static constexpr int kPitch = Width * 2 + 16;  // bytes of a row: an odd number of 16s, free of bank conflicts
  static constexpr int kStages = 2;
  static constexpr int kStageBytes = 2 * kKeys * kPitch;
  static constexpr int kShared = kStages * kStageBytes;
  static_assert(kQueries * kPitch <= kShared, "queries pass through the memory of the stages");
};

template <class T, int Width, int Tiles>
__global__ void __launch_bounds__(128, 1) attention_half(Attention problem) {
  using A = HalfAttention<Width, Tiles>;
  VTP_SHARED(memory);
  const Part part = Part::of(problem, blockIdx.x, A::kQueries);
  if (part.first_query >= part.length) return;  // the whole block
  const int warp = static_cast<int>(threadIdx.x / 32), lane = static_cast<int>(threadIdx.x % 32);
  const int group = lane / 4, pair = lane % 4 * 2, my_rows = warp * 16 * Tiles;
  const T* q = static_cast<const T*>(problem.q) + part.offset(problem, problem.q_strides);
  const T* k = static_cast<const T*>(problem.k) + part.offset(problem, problem.k_strides);
  const T* v = static_cast<const T*>(problem.v) + part.offset(problem, problem.v_strides);
  const int steps = (part.length + A::kKeys - 1) / A::kKeys;

  stage_tokens<T, Width, A::kPitch, A::kThreads>(memory, q, problem.q_strides.token, part.first_query, A::kQueries,
                                                 part.length);
  copy_commit();
  copy_wait<0>();
  __syncthreads();
  uint32_t queries[Tiles][Width / 16][4];
  VTP_UNROLL
  for (int m = 0; m < Tiles; ++m) {
    VTP_UNROLL
    for (int d = 0; d < Width / 16; ++d) {
      load_matrices<false>(queries[m][d],
                           memory + (my_rows + m * 16 + lane % 16) * A::kPitch + d * 32 + lane / 16 * 16);
    }
  }
  __syncthreads();

  auto fetch = [&](int step) {
    if (step < steps) {
      unsigned char* stage = memory + step % A::kStages * A::kStageBytes;
      const int first = step * A::kKeys;
      stage_tokens<T, Width, A::kPitch, A::kThreads>(stage, k, problem.k_strides.token, first, A::kKeys, part.length);
      stage_tokens<T, Width, A::kPitch, A::kThreads>(stage + A::kKeys * A::kPitch, v, problem.v_strides.token, first,
                                                     A::kKeys, part.length);
    }
    copy_commit();
  };

  const float scale = problem.scale * kLog2E;
  Softmax softmax[Tiles][2];
  float out[Tiles][Width / 8][4] = {};
  fetch(0);
  for (int step = 0; step < steps; ++step) {
    copy_wait<0>();
    __syncthreads();
    fetch(step + 1);
    const unsigned char* keys = memory + step % A::kStages * A::kStageBytes;
    const unsigned char* values = keys + A::kKeys * A::kPitch;

    float score[Tiles][A::kKeys / 8][4] = {};
    VTP_UNROLL
    for (int d = 0; d < Width / 16; ++d) {
      VTP_UNROLL
      for (int n = 0; n < A::kKeys / 8; n += 2) {
        uint32_t b[4];
        load_matrices<false>(b, keys + (n * 8 + lane % 8 + lane / 16 * 8) * A::kPitch + d * 32 + lane / 8 % 2 * 16);
        const uint32_t first[2] = {b[0], b[1]}, second[2] = {b[2], b[3]};
        VTP_UNROLL
        for (int m = 0; m < Tiles; ++m) {
          mma16<T>(score[m][n], queries[m][d], first);
          mma16<T>(score[m][n + 1], queries[m][d], second);
        }
      }
    }

    const int left = part.length - step * A::kKeys;  // keys from here on
    VTP_UNROLL
    for (int m = 0; m < Tiles; ++m) {
      VTP_UNROLL
      for (int half = 0; half < 2; ++half) {
        float largest = -INFINITY;
        VTP_UNROLL
        for (int n = 0; n < A::kKeys / 8; ++n) {
          VTP_UNROLL
          for (int i = 0; i < 2; ++i) {
            float& s = score[m][n][half * 2 + i];
            s = n * 8 + pair + i < left ? s * scale : -INFINITY;
            largest = fmaxf(largest, s);
          }
        }
        const float factor = softmax[m][half].raise(largest);
        VTP_UNROLL
        for (int n = 0; n < A::kKeys / 8; ++n) {
          VTP_UNROLL
          for (int i = 0; i < 2; ++i) {
            float& s = score[m][n][half * 2 + i];
            s = softmax[m][half].weigh(s);
          }
        }
        VTP_UNROLL
        for (int n = 0; n < Width / 8; ++n) {
          out[m][n][half * 2] *= factor;
          out[m][n][half * 2 + 1] *= factor;
        }
      }
    }

    VTP_UNROLL
    for (int s = 0; s < A::kKeys / 16; ++s) {
      uint32_t p[Tiles][4];
      VTP_UNROLL
      for (int m = 0; m < Tiles; ++m) {
        VTP_UNROLL
        for (int i = 0; i < 4; ++i) {
          const float* from = &score[m][2 * s + i / 2][i % 2 * 2];
          p[m][i] = pack<T>(from[0], from[1]);
        }
      }
      VTP_UNROLL
      for (int n = 0; n < Width / 8; n += 2) {
        uint32_t b[4];
        load_matrices<true>(b, values + (s * 16 + lane % 16) * A::kPitch + n * 16 + lane / 16 * 16);
        const uint32_t first[2] = {b[0], b[1]}, second[2] = {b[2], b[3]};
        VTP_UNROLL
        for (int m = 0; m < Tiles; ++m) {
          mma16<T>(out[m][n], p[m], first);
          mma16<T>(out[m][n + 1], p[m], second);
        }
      }
    }
  }

  T* to = static_cast<T*>(problem.out) + part.offset(problem, problem.out_strides);
  float* lse = problem.lse + part.offset(problem, problem.lse_strides);
  VTP_UNROLL
  for (int m = 0; m < Tiles; ++m) {
    VTP_UNROLL
    for (int half = 0; half < 2; ++half) {
      Softmax& row = softmax[m][half];
      row.finish();
      const int query = part.first_query + my_rows + m * 16 + half * 8 + group;
      if (query >= part.length) continue;
      const float factor = 1.0f / row.sum;
      VTP_UNROLL
      for (int n = 0; n < Width / 8; ++n) {
        const uint32_t two = pack<T>(out[m][n][half * 2] * factor, out[m][n][half * 2 + 1] * factor);
        *reinterpret_cast<uint32_t*>(to + query * problem.out_strides.token + n * 8 + pair) = two;
      }
      if (pair == 0) lse[query * problem.lse_strides.token] = row.lse();
    }
  }
}

}  // namespace vtp::cuda
