// Backward of one sequence and head in one pass, five products: P is made again from the log-sum-exp, then
//   dV[key][d]     += sum_query P^T[key][query]  dO[query][d]
//   dP^T[key][query] = sum_d    V[key][d]        dO^T[d][query]       dS = P * (dP - delta), delta =
//   rowsum(dO * O) dK[key][d]     += sum_query dS^T[key][query] Q[query][d] dQ^T[d][query] += sum_key
//   K[key][d]        dS^T[key][query]
// Outer loop over queries, inner over keys; dK and dV gather in float panels of the whole sequence. One
// thread does it all, in one order, so the bits don't depend on the number of threads. The log-sum-exp's own
// gradient g adds P * g to dS, so it is taken off delta.
#pragma once
#include "attention_gradient_rows.h"

namespace vtp {
namespace {

constexpr int backward_keys = 72;  // a multiple of 6 (tile) and 2 (pairs); 24, 48 and 96 are slower

template <bool pairs>
struct BackwardScratch {
  uint32_t *q, *k, *v, *g, *k_pairs;        // panels of the sequence; g: output gradient
  float *grad_q, *grad_k, *grad_v, *delta;  // of the sequence
  uint32_t *q_columns, *g_columns, *q_pairs, *g_pairs, *p, *s, *s_pairs;  // of a block
  float *grad_columns, *wide;

  size_t place(char* base, int64_t tokens, int padded) {
    size_t at = 0;
    const auto take = [&](auto*& pointer, size_t bytes) {
      pointer = (decltype(+pointer))(base + at);
      at += round_up(bytes, 64);
    };
    const size_t panel = (size_t)tokens * padded * (pairs ? 2 : 4), words = (size_t)tokens * padded * 4;
    take(q, panel), take(k, panel), take(v, panel), take(g, panel);
    take(k_pairs, pairs ? (tokens + 1) / 2 * padded * 4 : 0);
    take(grad_q, words + (size_t)block_queries * padded * 4), take(grad_k, words), take(grad_v, words);
    take(delta, tokens * 4);
    const size_t block = (size_t)padded * block_queries * 4;
    const size_t square = (size_t)backward_keys * block_queries * 4;
    take(q_columns, block), take(g_columns, block);
    take(q_pairs, pairs ? block / 2 : 0), take(g_pairs, pairs ? block / 2 : 0);
    take(p, square), take(s, square), take(s_pairs, pairs ? square : 0);
    take(grad_columns, block), take(wide, (size_t)tile_rows * block_queries * 4);
    return at;
  }
};

// P^T and dS^T of `rows` keys. Without pairs rows of floats; with pairs rows of bfloat16 (words are pairs of
// queries) and dS^T once more as words that are pairs of keys.
template <bool pairs, int rows, int columns>
static VTP_INLINE void weights_tile(const uint32_t* k, const uint32_t* v, int words,
                                    const uint32_t* q_columns, const uint32_t* g_columns, Reg scale,
                                    const Reg* lse, const Reg* delta, uint32_t* p, uint32_t* s,
                                    uint32_t* s_pairs, float* wide) {
  constexpr int lanes = Vector::lanes, stride = columns * lanes, row = pairs ? stride / 2 : stride;
  float* exact = pairs ? wide : (float*)p;
  Tile<rows, columns> tile;
  tile.clear();
  tile.template multiply<pairs>(k, words, 1, q_columns, stride, words);
#pragma GCC unroll 8
  for (int i = 0; i < rows; i++)
#pragma GCC unroll 4
    for (int j = 0; j < columns; j++) {
      const Reg weight = Vector::exp2<pairs>(Vector::fms(tile.at[i][j], scale, lse[j]));
      Vector::store(exact + i * stride + j * lanes, weight);
      if constexpr (pairs) Vector::store_bf16((uint16_t*)(p + i * row) + j * lanes, weight);
    }
  tile.clear();
  tile.template multiply<pairs>(v, words, 1, g_columns, stride, words);
#pragma GCC unroll 8
  for (int i = 0; i < rows; i++)
#pragma GCC unroll 4
    for (int j = 0; j < columns; j++) {
      const Reg weight = Vector::load(exact + i * stride + j * lanes);
      tile.at[i][j] = Vector::mul(weight, Vector::sub(tile.at[i][j], delta[j]));
      if constexpr (pairs)
        Vector::store_bf16((uint16_t*)(s + i * row) + j * lanes, tile.at[i][j]);
      else
        Vector::store((float*)s + i * row + j * lanes, tile.at[i][j]);
    }
  if constexpr (pairs)
#pragma GCC unroll 4
    for (int i = 0; i < rows; i += 2)
#pragma GCC unroll 4
      for (int j = 0; j < columns; j++)
        Vector::store_pairs(s_pairs + i / 2 * stride + j * lanes, tile.at[i][j],
                            i + 1 < rows ? tile.at[i + 1 < rows ? i + 1 : i][j] : Vector::zero());
}

// target[row][:] (+)= sum_k a[row][k] * b[k][:] over whole rows of a panel.
template <bool pairs, class W>
static __attribute__((noinline)) void add_product(const uint32_t* a, int a_stride, const uint32_t* b,
                                                  int rows, int depth, W padded, float* target, bool first) {
  const int floats = padded.floats();
  each_tile(rows, [&](auto tile_rows, int i) VTP_LAMBDA {
    const uint32_t* left = a + i * a_stride;
    float* row = target + (int64_t)i * floats;
    each_column_group(floats, [&](auto columns, int at) VTP_LAMBDA {
      Tile<tile_rows.value, columns.value> tile;
      if (first)
        tile.clear();
      else
        tile.load(row + at, floats);
      tile.template multiply<pairs>(left, a_stride, 1, b + at, floats, depth);
      tile.store(row + at, floats);
    });
  });
}

template <bool pairs, int columns, class W>
static __attribute__((noinline)) void backward_block(const AttentionTask& task, int tokens, int first_query,
                                                     int queries, W padded, const uint32_t* q,
                                                     const uint32_t* k, const uint32_t* v, const uint32_t* g,
                                                     const float* lse,
                                                     const BackwardScratch<pairs>& scratch) {
  constexpr int lanes = Vector::lanes, stride = columns * lanes, row = pairs ? stride / 2 : stride;
  const int floats = padded.floats(), words = pairs ? floats / 2 : floats;
  const bool first = first_query == 0;
  // Absent queries get P = 0: their log-sum-exp is infinite.
  alignas(64) float lse_values[stride], delta_values[stride];
  for (int i = 0; i < stride; i++) {
    lse_values[i] = i < queries ? lse[first_query + i] * log2_e : INFINITY;
    delta_values[i] = i < queries ? scratch.delta[first_query + i] : 0.f;
  }
  Reg lses[columns], deltas[columns];
  for (int j = 0; j < columns; j++) {
    lses[j] = Vector::load(lse_values + j * lanes);
    deltas[j] = Vector::load(delta_values + j * lanes);
  }
  const Reg scale = Vector::all(task.scale * log2_e);
  const uint32_t *q_rows = q + (int64_t)first_query * words, *g_rows = g + (int64_t)first_query * words;
  transpose_panel<columns>(q_rows, words, queries, scratch.q_columns);
  transpose_panel<columns>(g_rows, words, queries, scratch.g_columns);
  if constexpr (pairs) {
    pair_rows((const char*)q_rows, floats * 2, queries, floats, floats, scratch.q_pairs);
    pair_rows((const char*)g_rows, floats * 2, queries, floats, floats, scratch.g_pairs);
    q_rows = scratch.q_pairs, g_rows = scratch.g_pairs;
  }
  const int depth = pairs ? (queries + 1) / 2 : queries;
  for (int at = 0; at < tokens; at += backward_keys) {
    const int keys = smaller(backward_keys, tokens - at);
    each_tile(keys, [&](auto rows, int i) VTP_LAMBDA {
      const int64_t key = (int64_t)(at + i) * words;
      weights_tile<pairs, rows.value, columns>(k + key, v + key, words, scratch.q_columns, scratch.g_columns,
                                               scale, lses, deltas, scratch.p + i * row, scratch.s + i * row,
                                               scratch.s_pairs + i / 2 * stride, scratch.wide);
    });
    const int64_t offset = (int64_t)at * floats;
    add_product<pairs>(scratch.p, row, g_rows, keys, depth, padded, scratch.grad_v + offset, first);
    add_product<pairs>(scratch.s, row, q_rows, keys, depth, padded, scratch.grad_k + offset, first);
    const uint32_t* block = pairs ? scratch.k_pairs + (int64_t)(at / 2) * floats : k + (int64_t)at * floats;
    const uint32_t* right = pairs ? scratch.s_pairs : scratch.s;
    each_tile(floats, [&](auto rows, int i) VTP_LAMBDA {
      float* target = scratch.grad_columns + i * stride;
      Tile<rows.value, columns> tile;
      if (at == 0)
        tile.clear();
      else
        tile.load(target, stride);
      tile.template multiply<pairs>(block + i, 1, floats, right, stride, pairs ? (keys + 1) / 2 : keys);
      tile.store(target, stride);
    });
  }
  const Reg factor = Vector::all(task.scale);
  for (int i = 0; i < floats * stride; i += lanes) {
    float* x = scratch.grad_columns + i;
    Vector::store(x, Vector::mul(Vector::load(x), factor));
  }
  transpose_back<columns>(scratch.grad_columns, floats, scratch.grad_q + (int64_t)first_query * floats);
}

// delta of each query: rowsum(dO * O) less the gradient of its log-sum-exp.
template <bool bf16>
static inline void deltas(const AttentionTask& task, int64_t sequence, int64_t head, int tokens,
                          float* delta) {
  const char *out = row_of(task, task.out, sequence, head), *g = row_of(task, task.grad_out, sequence, head);
  const char* own = task.grad_lse.data ? row_of(task, task.grad_lse, sequence, head) : nullptr;
  const int width = task.width, bytes = width * (bf16 ? 2 : 4);
  for (int i = 0; i < tokens; i++, out += task.out.token, g += task.grad_out.token) {
    prefetch(out, task.out.token, bytes);
    prefetch(g, task.grad_out.token, bytes);
    Reg sum = Vector::zero();
    int d = 0;
    for (; d + Vector::lanes <= width; d += Vector::lanes)
      sum = Vector::fma(load_row<bf16>(out, d), load_row<bf16>(g, d), sum);
    float total = Vector::sum(sum);
    for (; d < width; d++)
      total += bf16 ? widen(((const uint16_t*)out)[d]) * widen(((const uint16_t*)g)[d])
                    : ((const float*)out)[d] * ((const float*)g)[d];
    delta[i] = own ? total - *(const float*)(own + i * task.grad_lse.token) : total;
  }
}

template <bool bf16, bool pairs, class W>
static void backward_head(const AttentionTask& task, int64_t sequence, int64_t head, W padded, void* base) {
  const int tokens = tokens_of(task, sequence), width = task.width, floats = padded.floats();
  if (!tokens) return;
  BackwardScratch<pairs> scratch;
  scratch.place((char*)base, tokens, floats);
  const Change none = {}, change_q = change_of(task, task.q_norm, sequence, tokens);
  const Change change_k = change_of(task, task.k_norm, sequence, tokens);
  deltas<bf16>(task, sequence, head, tokens, scratch.delta);
  const uint32_t* q =
      panel_of<bf16, pairs>(task, task.q, sequence, head, tokens, change_q, padded, scratch.q);
  const uint32_t* k =
      panel_of<bf16, pairs>(task, task.k, sequence, head, tokens, change_k, padded, scratch.k);
  const uint32_t* v = panel_of<bf16, pairs>(task, task.v, sequence, head, tokens, none, padded, scratch.v);
  const uint32_t* g =
      panel_of<bf16, pairs>(task, task.grad_out, sequence, head, tokens, none, padded, scratch.g);
  if constexpr (pairs) pair_rows((const char*)k, floats * 2, tokens, floats, floats, scratch.k_pairs);
  const float* lse = (const float*)row_of(task, task.lse, sequence, head);
  for (int at = 0; at < tokens;) {
    const int queries = next_queries(tokens - at);
    each_column_count(queries, [&](auto columns) {
      backward_block<pairs, columns.value>(task, tokens, at, queries, padded, q, k, v, g, lse, scratch);
    });
    at += queries;
  }
  const Reg factor = Vector::all(task.scale);
  for (int64_t i = 0; i < (int64_t)tokens * floats; i += Vector::lanes)
    Vector::store(scratch.grad_k + i, Vector::mul(Vector::load(scratch.grad_k + i), factor));
  float* parts = task.norm_parts ? task.norm_parts + (sequence * task.heads + head) * 2 * width : nullptr;
  store_gradient<bf16>(scratch.grad_q, row_of(task, task.q, sequence, head), task.q.token, tokens, change_q,
                       width, padded, row_of(task, task.grad_q, sequence, head), task.grad_q.token, parts);
  store_gradient<bf16>(scratch.grad_k, row_of(task, task.k, sequence, head), task.k.token, tokens, change_k,
                       width, padded, row_of(task, task.grad_k, sequence, head), task.grad_k.token,
                       parts ? parts + width : nullptr);
  store_gradient<bf16>(scratch.grad_v, nullptr, 0, tokens, none, width, padded,
                       row_of(task, task.grad_v, sequence, head), task.grad_v.token, nullptr);
}

}  // namespace
}  // namespace vtp
