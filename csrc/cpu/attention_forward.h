// Forward of one sequence and head: softmax(scale q k^T) v with a running maximum, and its log-sum-exp.
//
// Lanes are queries, so maximum, sum and rescaling need no reduction across lanes:
//   S^T[key][query] = sum_d K[key][d] Q^T[d][query]      O^T[d][query] += sum_key V[key][d] P^T[key][query]
#pragma once
#include "attention_rows.h"

namespace vtp {
namespace {

constexpr int forward_keys = 48;  // keys a block: its scores stay in the first-level cache

template <bool pairs>
struct ForwardScratch {
  uint32_t *keys, *values, *queries, *scores;
  float* out;
  char* rows;

  // Lays the buffers out from `base`; returns the bytes they take.
  size_t place(char* base, int64_t tokens, int padded) {
    size_t at = 0;
    const auto take = [&](auto*& pointer, size_t bytes) {
      pointer = (decltype(+pointer))(base + at);
      at += round_up(bytes, 64);
    };
    take(keys, tokens * padded * (pairs ? 2 : 4));
    take(values, (pairs ? (tokens + 1) / 2 : tokens) * padded * 4);
    take(queries, (size_t)padded * block_queries * (pairs ? 2 : 4));
    take(scores, (size_t)forward_keys * block_queries * 4);
    take(out, (size_t)padded * block_queries * 4);
    take(rows, (size_t)padded * block_queries * 4);
    return at;
  }
};

// Weights and running state of one block of keys: turns scores into exponentials in place.
template <bool pairs, int columns>
static VTP_INLINE void exponentials(uint32_t* scores, int keys, Reg scale, const Reg* maximum, Reg* sum) {
  constexpr int lanes = Vector::lanes, stride = columns * lanes;
  for (int i = 0; i < keys; i += pairs ? 2 : 1)
#pragma GCC unroll 4
    for (int j = 0; j < columns; j++) {
      const float* s = (const float*)scores + i * stride + j * lanes;
      const Reg a = Vector::exp2<pairs>(Vector::fms(Vector::load(s), scale, maximum[j]));
      sum[j] = Vector::add(sum[j], a);
      if constexpr (pairs) {
        Reg b = Vector::zero();
        if (i + 1 < keys) {
          b = Vector::exp2<pairs>(Vector::fms(Vector::load(s + stride), scale, maximum[j]));
          sum[j] = Vector::add(sum[j], b);
        }
        Vector::store_pairs(scores + i / 2 * stride + j * lanes, a, b);
      } else {
        Vector::store((float*)scores + i * stride + j * lanes, a);
      }
    }
}

template <bool pairs, int columns, class W>
static __attribute__((noinline)) void forward_block(const AttentionTask& task, int tokens, int queries,
                                                    W padded, const uint32_t* keys, const uint32_t* values,
                                                    const ForwardScratch<pairs>& scratch, float* lse) {
  constexpr int lanes = Vector::lanes, stride = columns * lanes;
  const int floats = padded.floats(), words = pairs ? floats / 2 : floats;
  const Reg scale = Vector::all(fabsf(task.scale) * log2_e);
  transpose_panel<columns>((const uint32_t*)scratch.rows, words, queries, scratch.queries);
  if (task.scale < 0.f)  // the greatest score times the scale is the maximum only if the scale is positive
    for (int i = 0; i < words * stride; i++) scratch.queries[i] ^= pairs ? 0x80008000u : 0x80000000u;
  Reg maximum[columns], sum[columns];
  for (int j = 0; j < columns; j++) {
    maximum[j] = Vector::all(-INFINITY);
    sum[j] = Vector::zero();
  }
  for (int first = 0; first < tokens; first += forward_keys) {
    const int count = smaller(forward_keys, tokens - first);
    Reg top[columns], fade[columns];
    for (int j = 0; j < columns; j++) top[j] = Vector::all(-INFINITY);
    each_tile(count, [&](auto rows, int i) VTP_LAMBDA {
      Tile<rows.value, columns> tile;
      tile.clear();
      tile.template multiply<pairs>(keys + (int64_t)(first + i) * words, words, 1, scratch.queries, stride,
                                    words);
#pragma GCC unroll 8
      for (int r = 0; r < rows.value; r++)
#pragma GCC unroll 4
        for (int j = 0; j < columns; j++) top[j] = Vector::max(top[j], tile.at[r][j]);
      tile.store((float*)scratch.scores + i * stride, stride);
    });
    for (int j = 0; j < columns; j++) {
      const Reg next = Vector::max(maximum[j], Vector::mul(top[j], scale));
      fade[j] = Vector::exp2<false>(Vector::sub(maximum[j], next));
      maximum[j] = next;
      sum[j] = Vector::mul(sum[j], fade[j]);
    }
    exponentials<pairs, columns>(scratch.scores, count, scale, maximum, sum);
    const uint32_t* block = values + (int64_t)(pairs ? first / 2 : first) * floats;
    const int depth = pairs ? (count + 1) / 2 : count;
    each_tile(floats, [&](auto rows, int i) VTP_LAMBDA {
      float* o = scratch.out + i * stride;
      Tile<rows.value, columns> tile;
      if (first == 0) {
        tile.clear();
      } else {
#pragma GCC unroll 8
        for (int r = 0; r < rows.value; r++)
#pragma GCC unroll 4
          for (int j = 0; j < columns; j++)
            tile.at[r][j] = Vector::mul(fade[j], Vector::load(o + r * stride + j * lanes));
      }
      tile.template multiply<pairs>(block + i, 1, floats, scratch.scores, stride, depth);
      tile.store(o, stride);
    });
  }
  alignas(64) float logs[stride];
  for (int j = 0; j < columns; j++) {
    Reg exponent;
    const Reg inverse = Vector::div(Vector::all(1.f), sum[j]);
    for (int d = 0; d < floats; d++) {
      float* o = scratch.out + d * stride + j * lanes;
      Vector::store(o, Vector::mul(inverse, Vector::load(o)));
    }
    const Reg mantissa = Vector::split(sum[j], exponent);
    const Reg total = Vector::add(maximum[j], Vector::add(log2_of(mantissa), exponent));
    Vector::store(logs + j * lanes, Vector::mul(total, Vector::all(1.f / log2_e)));
  }
  memcpy(lse, logs, queries * 4);
  transpose_back<columns>(scratch.out, floats, (float*)scratch.rows);
}

template <bool bf16, bool pairs, class W>
static void forward_head(const AttentionTask& task, int64_t sequence, int64_t head, int64_t first,
                         int64_t last, W padded, void* base) {
  const int tokens = tokens_of(task, sequence), width = task.width;
  ForwardScratch<pairs> scratch;
  scratch.place((char*)base, tokens, padded.floats());
  const Change none = {}, change_q = change_of(task, task.q_norm, sequence, tokens);
  const Change change_k = change_of(task, task.k_norm, sequence, tokens);
  const uint32_t* keys =
      panel_of<bf16, pairs>(task, task.k, sequence, head, tokens, change_k, padded, scratch.keys);
  const uint32_t* values = scratch.values;
  const char* v = row_of(task, task.v, sequence, head);
  if constexpr (pairs)
    pair_rows(v, task.v.token, tokens, width, padded.floats(), scratch.values);
  else
    values = panel_of<bf16, pairs>(task, task.v, sequence, head, tokens, none, padded, scratch.values);
  const char* q = row_of(task, task.q, sequence, head);
  char* out = row_of(task, task.out, sequence, head);
  float* lse = (float*)row_of(task, task.lse, sequence, head);
  for (int at = first; at < last;) {
    const int queries = next_queries(last - at);
    load_panel<bf16, pairs>(q, task.q.token, at, queries, change_q, width, padded, scratch.rows);
    each_column_count(queries, [&](auto columns) {
      forward_block<pairs, columns.value>(task, tokens, queries, padded, keys, values, scratch, lse + at);
    });
    const float* row = (const float*)scratch.rows;
    for (int i = 0; i < queries; i++, row += padded.floats())
      floats_to_row<bf16>(row, width, out + (at + i) * task.out.token);
    at += queries;
  }
}

}  // namespace
}  // namespace vtp
