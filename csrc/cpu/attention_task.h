// What one call of attention asks for, and the table of functions that each instruction set offers for it.
// Plain C types only: the kernels' files are compiled with flags of their own and share no inline code.
#pragma once
#include <stddef.h>
#include <stdint.h>

namespace vtp {

// Rows of one head width, one for each (sequence, head, token); the strides are in bytes.
struct AttentionRows {
  char* data;
  int64_t sequence, head, token;
};

// Rotary tables of `positions` rows of `width` values, row-major; null: no rotation.
struct AttentionTables {
  const char* cosine;
  const char* sine;
  int64_t positions;
  bool bf16;  // the rotation is then rounded to bfloat16 wherever torch would round it
};

struct AttentionTask {
  int64_t sequences, heads, width;
  int64_t tokens;         // dense: of every sequence
  const int64_t* starts;  // packed: sequences + 1 values; null: dense
  bool bf16;              // dtype of all rows; else float32
  float scale;
  AttentionRows q, k, v, out;
  AttentionRows lse;  // float32, natural logarithm
  AttentionTables rope;
  const float* q_norm;  // (width,) or null
  const float* k_norm;
  float eps;
  // The rest is for the backward only. grad_lse.data is null if there is no such gradient.
  AttentionRows grad_out, grad_lse, grad_q, grad_k, grad_v;
  // (sequences * heads, 2, width): each unit's part of the gradients of q_norm and k_norm; zero at first.
  float* norm_parts;
};

struct AttentionFunctions {
  // Bytes of 64-byte aligned scratch that a call below needs for a sequence of `tokens`.
  size_t (*forward_scratch)(const AttentionTask&, int64_t tokens);
  size_t (*backward_scratch)(const AttentionTask&, int64_t tokens);
  // Output and log-sum-exp of queries [first, last) of one sequence and head. No split changes a bit: a query is
  // a lane of its own and meets the keys in one order, whatever lies beside it.
  void (*forward)(const AttentionTask&, int64_t sequence, int64_t head, int64_t first, int64_t last, void*);
  // All gradients of one sequence and head.
  void (*backward)(const AttentionTask&, int64_t sequence, int64_t head, void*);
};

AttentionFunctions attention_portable();
#if defined(__x86_64__)
AttentionFunctions attention_avx2();
AttentionFunctions attention_avx512();
AttentionFunctions attention_avx512bf16();
#endif

}  // namespace vtp
