// What the attention kernels share: the inputs, and the part of the work that a block has.
#pragma once

#include "device.cuh"

namespace vtp::cuda {

// Elements from one sequence, head and token to the next; the elements of a token's head lie side by side.
struct Strides {
  int64_t sequence, head, token;
};

struct Attention {
  const void *q, *k, *v;
  void* out;
  float* lse;  // natural logarithm of the sum of exp(scaled scores)
  Strides q_strides, k_strides, v_strides, out_strides, lse_strides;
  const int* cu_seqlens;  // where the sequences of the packed layout begin; null if dense
  int sequences, heads, tokens;  // tokens of the longest sequence
  float scale;
};

// One tile of queries of one head of one sequence.
struct Part {
  int sequence, head, first_query, length;
  int64_t start;  // first token of a packed sequence

  // `index` runs over sequences, then heads, then tiles: neighbours read the same keys.
  __device__ static Part of(const Attention& problem, unsigned index, int queries) {
    const unsigned tiles = (problem.tokens + queries - 1) / queries;
    Part part;
    part.first_query = static_cast<int>(index % tiles) * queries;
    part.head = static_cast<int>(index / tiles % problem.heads);
    part.sequence = static_cast<int>(index / tiles / problem.heads);
    part.start = 0;
    part.length = problem.tokens;
    if (problem.cu_seqlens != nullptr) {
      part.start = problem.cu_seqlens[part.sequence];
      part.length = problem.cu_seqlens[part.sequence + 1] - problem.cu_seqlens[part.sequence];
    }
    return part;
  }
  __device__ int64_t offset(const Attention& problem, const Strides& strides) const {
    const int64_t outer = problem.cu_seqlens != nullptr ? start * strides.token : sequence * strides.sequence;
    return outer + head * strides.head;
  }
};

// Running maximum and sum of a row's softmax, in units of log2. The sum is this thread's share until `finish`.
struct Softmax {
  float largest = -INFINITY, sum = 0.0f;

  // Takes the maximum of new scores; returns what the sums so far are to be multiplied with.
  __device__ float raise(float score) {
    score = fmaxf(score, __shfl_xor_sync(kFullWarp, score, 1));
    score = fmaxf(score, __shfl_xor_sync(kFullWarp, score, 2));
    const float before = largest;
    largest = fmaxf(largest, score);
    const float factor = exp2_fast(before - base());
    sum *= factor;
    return factor;
  }
  // A row of which every score so far is -inf has no maximum to subtract.
  __device__ float base() const { return largest == -INFINITY ? 0.0f : largest; }
  __device__ float weigh(float score) {
    const float p = exp2_fast(score - base());
    sum += p;
    return p;
  }
  __device__ void finish() {
    sum += __shfl_xor_sync(kFullWarp, sum, 1);
    sum += __shfl_xor_sync(kFullWarp, sum, 2);
  }
  __device__ float lse() const { return (largest + log2f(sum)) * 0.6931471805599453f; }
};

constexpr float kLog2E = 1.4426950408889634f;

// Rows first.. of a sequence into shared memory, 16 bytes a copy; rows from `length` on become 0.
template <class T, int Width, int Pitch, int Threads>
__device__ __forceinline__ void stage_tokens(unsigned char* to, const T* from, int64_t stride, int first, int rows,
                                             int length) {
  constexpr int kPieces = Width * static_cast<int>(sizeof(T)) / 16, kElements = 16 / static_cast<int>(sizeof(T));
  for (int i = static_cast<int>(threadIdx.x); i < rows * kPieces; i += Threads) {
    const int row = i / kPieces, piece = i % kPieces;
    const bool is_there = first + row < length;
    const T* source = is_there ? from + (first + row) * stride + piece * kElements : from;
    copy_async(to + row * Pitch + piece * 16, source, is_there ? 16 : 0);
  }
}

}  // namespace vtp::cuda
