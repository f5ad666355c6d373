// The screen on tensor cores: 256 rows a block, 32 a warp, codes streamed through shared memory by cp.async.
#pragma once

#include "search_window.cuh"

namespace vtp::cuda {

// Narrow: up to 64 dimensions, the rows stay in registers. Wide: any multiple of 64, rows are streamed as well.
template <int Steps>  // of 16 dimensions; 0: wide
struct Screen {
  static constexpr bool kWide = Steps == 0;
  static constexpr int kThreads = 256;
  static constexpr int kRows = 256;
  static constexpr int kCodes = kWide ? 128 : 64;
  static constexpr int kSteps = kWide ? 2 : Steps;
  static constexpr int kDepth = kSteps * 16;
  static constexpr int kPitch = kDepth * 2 + 16;  // bytes of a row: an odd number of 16s, free of bank conflicts
  static constexpr int kStages = kWide ? 3 : 4;
  static constexpr int kTiles = kCodes / 8;
  static constexpr int kBiasBytes = kCodes * 4;
  static constexpr int kCodeBytes = kCodes * kPitch;
  static constexpr int kStageBytes = kCodeBytes + kBiasBytes + (kWide ? kRows * kPitch : 0);
  static constexpr int kRing = kStages * kStageBytes > kRows * kPitch ? kStages * kStageBytes : kRows * kPitch;
  static constexpr int kShared = kRing + kRows * 4;
};

// `count` rows of `Depth` bf16 each into pitched shared memory, 16 bytes a copy.
template <class S>
__device__ __forceinline__ void stage_rows(unsigned char* to, const Bf16* from, int64_t pitch, int count) {
  constexpr int kPieces = S::kDepth / 8;
  for (int i = static_cast<int>(threadIdx.x); i < count * kPieces; i += S::kThreads) {
    const int row = i / kPieces, piece = i % kPieces;
    copy_async(to + row * S::kPitch + piece * 16, from + row * pitch + piece * 8, 16);
  }
}

// Operand a of 16 rows and 16 dimensions, from pitched shared memory.
template <class S>
__device__ __forceinline__ void load_a(uint32_t (&a)[4], const unsigned char* rows, int step) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  load_matrices<false>(a, rows + (lane % 16) * S::kPitch + step * 32 + lane / 16 * 16);
}

// Operands b of 16 codes and 16 dimensions: b[0..1] of the first eight, b[2..3] of the others.
template <class S>
__device__ __forceinline__ void load_b(uint32_t (&b)[4], const unsigned char* codes, int step) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  load_matrices<false>(b, codes + (lane % 8 + lane / 16 * 8) * S::kPitch + step * 32 + lane / 8 % 2 * 16);
}

__device__ __forceinline__ Panel larger(const Panel& a, const Panel& b) {
  return Panel{fmaxf(a.norm, b.norm), fmaxf(a.residual, b.residual), fmaxf(a.bias, b.bias),
               fmaxf(a.slack, b.slack)};
}

// Grid (rows / 256, splits); the codes of a split are its share of the pairs of panels.
template <int Steps>
__global__ void __launch_bounds__(256) screen_bf16(Plan plan, int rows, Workspace space) {
  using S = Screen<Steps>;
  VTP_SHARED(memory);
  int* counts = reinterpret_cast<int*>(memory + S::kRing);
  const int warp = static_cast<int>(threadIdx.x / 32), lane = static_cast<int>(threadIdx.x % 32);
  const int group = lane / 4, pair = lane % 4 * 2;
  const int first_row = static_cast<int>(blockIdx.x) * S::kRows, my_rows = warp * 32;
  const int split = static_cast<int>(blockIdx.y), splits = static_cast<int>(gridDim.y);
  const int pairs = plan.padded_codes / kPadCodes;
  const int begin_code = static_cast<int>(static_cast<int64_t>(pairs) * split / splits) * kPadCodes;
  const int end_code = static_cast<int>(static_cast<int64_t>(pairs) * (split + 1) / splits) * kPadCodes;
  const int chunks = S::kWide ? plan.padded_width / S::kDepth : 1;
  const int work = (end_code - begin_code) / S::kCodes * chunks;
  const int64_t width = plan.padded_width;
  const Bf16* block_rows = space.rows_bf16 + first_row * width;

  counts[threadIdx.x] = 0;
  auto fetch = [&](int item) {
    if (item < work) {
      unsigned char* stage = memory + item % S::kStages * S::kStageBytes;
      const int code = begin_code + item / chunks * S::kCodes, depth = item % chunks * S::kDepth;
      stage_rows<S>(stage, space.codes_bf16 + code * width + depth, width, S::kCodes);
      if (threadIdx.x < S::kCodes / 4) {
        copy_async(stage + S::kCodeBytes + threadIdx.x * 16, space.bias + code + threadIdx.x * 4, 16);
      }
      if constexpr (S::kWide) {
        stage_rows<S>(stage + S::kCodeBytes + S::kBiasBytes, block_rows + depth, width, S::kRows);
      }
    }
    copy_commit();
  };

  uint32_t a[2][S::kSteps][4];
  if constexpr (!S::kWide) {  // through the ring's memory into registers, once
    stage_rows<S>(memory, block_rows, width, S::kRows);
    copy_commit();
    copy_wait<0>();
    __syncthreads();
    VTP_UNROLL
    for (int m = 0; m < 2; ++m) {
      VTP_UNROLL
      for (int step = 0; step < S::kSteps; ++step) {
        load_a<S>(a[m][step], memory + (my_rows + m * 16) * S::kPitch, step);
      }
    }
    __syncthreads();
  }

  Window<4, S::kTiles * 2, 4> window;
  window.begin(gamma_tensor(plan.padded_width), plan.width, space.meta->underflow);
  auto row_of = [&](int i) { return my_rows + i / 2 * 16 + i % 2 * 8 + group; };
  VTP_UNROLL
  for (int i = 0; i < 4; ++i) {
    const RowBound bound = space.bounds[first_row + row_of(i)];
    window.norm[i] = bound.norm_bf16;
    window.residual[i] = bound.residual_bf16;
  }
  Candidate* lists = space.candidates + (static_cast<int64_t>(split) * plan.chunk + first_row) * kListed;

  for (int stage = 0; stage + 1 < S::kStages; ++stage) fetch(stage);
  float score[2][S::kTiles][4];
  for (int item = 0; item < work; ++item) {
    copy_wait<S::kStages - 2>();
    __syncthreads();
    fetch(item + S::kStages - 1);
    const unsigned char* stage = memory + item % S::kStages * S::kStageBytes;
    if (item % chunks == 0) {
      const float* bias = reinterpret_cast<const float*>(stage + S::kCodeBytes);
      VTP_UNROLL
      for (int tile = 0; tile < S::kTiles; ++tile) {
        VTP_UNROLL
        for (int i = 0; i < 4; ++i) score[0][tile][i] = score[1][tile][i] = bias[tile * 8 + pair + i % 2];
      }
    }
    if constexpr (S::kWide) {
      VTP_UNROLL
      for (int m = 0; m < 2; ++m) {
        VTP_UNROLL
        for (int step = 0; step < S::kSteps; ++step) {
          load_a<S>(a[m][step], stage + S::kCodeBytes + S::kBiasBytes + (my_rows + m * 16) * S::kPitch, step);
        }
      }
    }
    VTP_UNROLL
    for (int step = 0; step < S::kSteps; ++step) {
      VTP_UNROLL
      for (int tile = 0; tile < S::kTiles; tile += 2) {
        uint32_t b[4];
        load_b<S>(b, stage + tile * 8 * S::kPitch, step);
        const uint32_t first[2] = {b[0], b[1]}, second[2] = {b[2], b[3]};
        VTP_UNROLL
        for (int m = 0; m < 2; ++m) {
          mma16<Bf16>(score[m][tile], a[m][step], first);
          mma16<Bf16>(score[m][tile + 1], a[m][step], second);
        }
      }
    }
    if (item % chunks != chunks - 1) continue;
    const int code = begin_code + item / chunks * S::kCodes;
    Panel panel = space.panels_bf16[code / kPanel];
    if constexpr (S::kWide) panel = larger(panel, space.panels_bf16[code / kPanel + 1]);
    window.take(
        panel, [&](int i, int j) { return score[i / 2][j / 2][i % 2 * 2 + j % 2]; },
        [&](int j) { return code + j / 2 * 8 + pair + j % 2; },
        [&](int i) { return Place{&counts[row_of(i)], lists + row_of(i) * kListed}; });
  }
  copy_wait<0>();

  VTP_UNROLL
  for (int i = 0; i < 4; ++i) {
    const int row = first_row + row_of(i);
    if (pair != 0 || row >= rows) continue;
    const int64_t at = static_cast<int64_t>(row) * splits + split;
    space.low[at] = window.low[i];
    space.counts[at] = counts[row_of(i)];
    if (counts[row_of(i)] > kListed && space.kind[row] == kScreened) {
      mark(&space.undecided[row], space.undecided_list, &space.meta->undecided_count, row);
    }
  }
}

}  // namespace vtp::cuda
