// Deals the work of a call to torch's threads.
//
// A piece of work is one (sequence, head), in the forward also a part of its queries. No two pieces write the
// same memory and none depends on who runs it, so results have the same bits for any number of threads.
#pragma once
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <memory>
#include <numeric>
#include <vector>

#include "attention_call.h"

namespace vtp {
namespace {

constexpr int64_t kPartQueries = 256;     // fewest queries of a part
constexpr size_t kScratchKept = 8 << 20;  // bytes a thread keeps between calls

struct Piece {
  int64_t sequence, head, first, last;
};

// The pieces, those of the longest sequences first. With few heads the forward's are cut into parts of
// queries.
std::vector<Piece> pieces_of(const Call& call, bool parts) {
  std::vector<int64_t> order(call.task.sequences);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int64_t a, int64_t b) { return call.tokens_of(a) > call.tokens_of(b); });
  const int64_t units = std::max<int64_t>(1, call.task.sequences * call.task.heads);
  const int64_t wanted = parts ? (2 * int64_t{torch::stable::get_num_threads()} + units - 1) / units : 1;
  std::vector<Piece> pieces;
  for (const int64_t sequence : order) {
    const int64_t tokens = call.tokens_of(sequence);
    if (tokens == 0) continue;
    const int64_t count = std::clamp<int64_t>(tokens / kPartQueries, 1, wanted);
    for (int64_t head = 0; head < call.task.heads; head++)
      for (int64_t part = 0; part < count; part++)
        pieces.push_back({sequence, head, tokens * part / count, tokens * (part + 1) / count});
  }
  return pieces;
}

// Aligned memory of a thread, kept between calls unless it is large.
struct Scratch {
  struct Free {
    void operator()(void* memory) const { std::free(memory); }
  };
  std::unique_ptr<void, Free> memory;
  size_t bytes = 0;

  void* need(size_t wanted) {
    if (wanted > bytes) {
      memory.reset();
      bytes = (wanted + 63) / 64 * 64;
      memory.reset(std::aligned_alloc(64, bytes));
      if (!memory) bytes = 0;
    }
    return memory.get();
  }
  void release_large() {
    if (bytes <= kScratchKept) return;
    memory.reset();
    bytes = 0;
  }
};

// Calls work(piece, scratch) for all pieces, on torch's threads, each taking the next one that is left.
template <class Work>
void share(const std::vector<Piece>& pieces, size_t scratch_bytes, const Work& work) {
  const int64_t count = static_cast<int64_t>(pieces.size());
  const int64_t workers = std::min<int64_t>(torch::stable::get_num_threads(), count);
  std::atomic<int64_t> next{0};
  std::atomic<bool> failed{false};
  torch::stable::parallel_for(0, workers, 1, [&](int64_t, int64_t) {
    thread_local Scratch scratch;
    void* memory = scratch.need(scratch_bytes);
    if (!memory) failed = true;
    for (int64_t i; memory && (i = next.fetch_add(1, std::memory_order_relaxed)) < count;)
      work(pieces[i], memory);
    scratch.release_large();
  });
  STD_TORCH_CHECK(!failed, "attention: no memory for ", scratch_bytes, " bytes of scratch a thread");
}

int64_t longest(const std::vector<Piece>& pieces, const Call& call) {
  return pieces.empty() ? 0 : call.tokens_of(pieces.front().sequence);
}

}  // namespace
}  // namespace vtp
