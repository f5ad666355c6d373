// Norm and rotation of queries and keys, before the attention proper: one warp a row.
//
// Rounds where the torch reference rounds: the unit vector and the normed one to the dtype of the inputs, each product
// and the sum of the rotation to that of the tables.
#pragma once

#include "attention_problem.cuh"

namespace vtp::cuda {

struct Rows {
  const void* from[2];  // queries, keys
  void* to[2];          // tokens, heads, width: side by side
  Strides strides[2];
  const float* norm[2];  // weights (width), or null
  const void *cos, *sin;  // (positions, width), or null
  Type table;
  int positions;  // the last tokens of each sequence; all of them if packed
  int sequences, heads, tokens, width;  // a packed layout is one sequence
  float eps;
};

__device__ __forceinline__ float round_to(Type type, float x) {
  if (type == Type::bf16) return to_float(from_float<Bf16>(x));
  if (type == Type::f16) return to_float(from_float<Half>(x));
  return x;
}

__device__ __forceinline__ float table_at(const void* table, Type type, int64_t i) {
  if (type == Type::bf16) return to_float(static_cast<const Bf16*>(table)[i]);
  if (type == Type::f16) return to_float(static_cast<const Half*>(table)[i]);
  return static_cast<const float*>(table)[i];
}

// 128 threads, four rows; blockIdx.y is 0 for queries and 1 for keys.
template <class T>
__global__ void __launch_bounds__(128, 1) attention_rows(Rows rows) {
  constexpr int kMost = 2;  // pairs of a lane: up to 128 elements a row
  const int64_t count = static_cast<int64_t>(rows.sequences) * rows.tokens * rows.heads;
  const int64_t index = static_cast<int64_t>(blockIdx.x) * 4 + threadIdx.x / 32;
  if (index >= count) return;  // the whole warp
  const int side = static_cast<int>(blockIdx.y), lane = static_cast<int>(threadIdx.x % 32), half = rows.width / 2;
  const int head = static_cast<int>(index % rows.heads);
  const int token = static_cast<int>(index / rows.heads % rows.tokens);
  const int64_t sequence = index / rows.heads / rows.tokens;
  const Strides& strides = rows.strides[side];
  const T* from = static_cast<const T*>(rows.from[side]) + sequence * strides.sequence + head * strides.head +
                  token * strides.token;
  T* to = static_cast<T*>(rows.to[side]) + index * rows.width;

  float x[kMost][2] = {};
  float square = 0.0f;
  VTP_UNROLL
  for (int i = 0; i < kMost; ++i) {
    const int d = lane + i * 32;
    if (d >= half) continue;
    VTP_UNROLL
    for (int j = 0; j < 2; ++j) {
      x[i][j] = to_float(from[d + j * half]);
      square += x[i][j] * x[i][j];
    }
  }
  if (rows.norm[side] != nullptr) {
    for (int lanes = 16; lanes != 0; lanes /= 2) square += __shfl_xor_sync(kFullWarp, square, lanes);
    const float factor = 1.0f / sqrtf(square / static_cast<float>(rows.width) + rows.eps);
    VTP_UNROLL
    for (int i = 0; i < kMost; ++i) {
      const int d = lane + i * 32;
      if (d >= half) continue;
      VTP_UNROLL
      for (int j = 0; j < 2; ++j) {
        const float unit = to_float(from_float<T>(x[i][j] * factor));
        x[i][j] = to_float(from_float<T>(unit * rows.norm[side][d + j * half]));
      }
    }
  }
  const int position = token - (rows.tokens - rows.positions);
  VTP_UNROLL
  for (int i = 0; i < kMost; ++i) {
    const int d = lane + i * 32;
    if (d >= half) continue;
    if (rows.cos != nullptr) {
      const float first = round_to(rows.table, x[i][0]), second = round_to(rows.table, x[i][1]);
      x[i][0] = first;
      x[i][1] = second;
      if (position >= 0) {
        const int64_t at = static_cast<int64_t>(position) * rows.width + d;
        VTP_UNROLL
        for (int j = 0; j < 2; ++j) {
          const float straight = j == 0 ? first : second, crossed = j == 0 ? -second : first;
          const float a = round_to(rows.table, straight * table_at(rows.cos, rows.table, at + j * half));
          const float b = round_to(rows.table, crossed * table_at(rows.sin, rows.table, at + j * half));
          x[i][j] = round_to(rows.table, a + b);
        }
      }
    }
    to[d] = from_float<T>(x[i][0]);
    to[d + half] = from_float<T>(x[i][1]);
  }
}

}  // namespace vtp::cuda
