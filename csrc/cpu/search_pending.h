// Rows in blocks: how many are screened together, and the lists of those that another screen has to see.
#pragma once

#include "search.h"

namespace {

constexpr int64_t kBlockFloats = 65536;   // of a block of screened rows: fits the second-level cache
constexpr int64_t kBlockDoubles = 32768;  // the same memory
constexpr int kMaxBlock = 96, kMaxBlock64 = 768;

VTP_INLINE int64_t clamp_block(int64_t rows, int64_t most) {
  rows = rows / kPoints * kPoints;
  return rows < kPoints ? kPoints : rows > most ? most / kPoints * kPoints : rows;
}

static int64_t block(int64_t width) { return clamp_block(kBlockFloats / padded(width), kMaxBlock); }
VTP_INLINE int64_t padded64(int64_t width) { return (width + 7) / 8 * 8; }
static int64_t block64(int64_t width) { return clamp_block(kBlockDoubles / padded64(width), kMaxBlock64); }

// A row that another pass has to see, with a lower bound of its best true score.
struct Pending {
  int64_t row;
  double low;
};

// A row of the float64 screen: `low` is a lower bound of its best true score so far.
struct Rising {
  double norm, span, low, least;
  int64_t code;
  bool settled;
};

struct List {
  // Fewer than a block of any screen, and a float block on top; Worker::drain says why that is enough.
  static constexpr int64_t kRoom = kMaxBlock64 + kMaxBlock;
  Pending* items;
  int64_t count;
  void add(Pending row) {
#ifdef VTP_SANITIZE
    if (count >= kRoom) __builtin_trap();  // all lists lie in one block of memory: no sanitizer would see it
#endif
    items[count++] = row;
  }
};

}  // namespace
