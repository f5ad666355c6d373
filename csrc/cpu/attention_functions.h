// The table of functions of one instruction set: picks the instance for a task's dtype and head width.
#pragma once
#include "attention_backward.h"
#include "attention_forward.h"

namespace vtp {
namespace {

// The usual width is a constant where that is worth its machine code: 1 to 6 %.
template <class F>
static VTP_INLINE void with_width(int64_t width, const F& f) {
  if constexpr (Vector::lanes == 16)
    if (width == 64) return f(Width<64>(64));
  f(Width<0>(width));
}

static size_t forward_scratch(const AttentionTask& task, int64_t tokens) {
  return ForwardScratch<Vector::pairs>().place(nullptr, tokens, padded_width(task.width));
}

static void forward(const AttentionTask& task, int64_t sequence, int64_t head, int64_t first, int64_t last,
                    void* scratch) {
  with_width(task.width, [&](auto width) {
    if constexpr (!Vector::pairs)
      if (!task.bf16) return forward_head<false, false>(task, sequence, head, first, last, width, scratch);
    forward_head<true, Vector::pairs>(task, sequence, head, first, last, width, scratch);
  });
}

static size_t backward_scratch(const AttentionTask& task, int64_t tokens) {
  return BackwardScratch<Vector::pairs>().place(nullptr, tokens, padded_width(task.width));
}

static void backward(const AttentionTask& task, int64_t sequence, int64_t head, void* scratch) {
  with_width(task.width, [&](auto width) {
    if constexpr (!Vector::pairs)
      if (!task.bf16) return backward_head<false, false>(task, sequence, head, width, scratch);
    backward_head<true, Vector::pairs>(task, sequence, head, width, scratch);
  });
}

static AttentionFunctions functions() { return {forward_scratch, backward_scratch, forward, backward}; }

}  // namespace
}  // namespace vtp
