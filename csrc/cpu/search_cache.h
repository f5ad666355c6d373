// Packed codebooks of earlier calls.
//
// An entry is found by what it was packed from: shape, type, metric, instruction set and a checksum of all bytes,
// computed on every call. So a codebook that changed in any way is packed anew, and one that moved is not. The
// address only says whose memory to use again: that of the codebook's last state. There are at most kEntries entries
// and kBytes bytes; Python drops those of an address when its storage dies.
#pragma once

#include <list>
#include <memory>
#include <mutex>

#include "search_pack.h"

namespace vtp::search {

struct Key {
  const Kernel* kernel;
  Metric metric;
  Kind kind;
  int64_t count, width;
  uint64_t checksum;
  const void* address;  // of the codebook's storage; not compared

  bool same(const Key& other) const {
    return kernel == other.kernel && metric == other.metric && kind == other.kind && count == other.count &&
           width == other.width && checksum == other.checksum;
  }
};

class Cache {
 public:
  static constexpr size_t kEntries = 8;
  static constexpr size_t kBytes = size_t{1} << 30;

  // What was packed from the same codes, or null.
  std::shared_ptr<const Packed> find(const Key& key);
  // Memory to pack into: of the same codebook's last state, else new.
  std::shared_ptr<Packed> recycle(const Key& key);
  void keep(const Key& key, std::shared_ptr<Packed> packed);
  // Drops what was packed from codebooks at [first, last).
  void forget(const void* first, const void* last);
  size_t entries();
  size_t bytes();

 private:
  struct Entry {
    Key key;
    std::shared_ptr<Packed> packed;
  };
  std::mutex mutex_;
  std::list<Entry> entries_;  // the last used first
};

// Blocks of scratch memory that wait for the next call: at most one a thread of the largest call.
class ScratchPool {
 public:
  std::unique_ptr<Block<char>> take();
  void give(std::unique_ptr<Block<char>> block, size_t most);

 private:
  std::mutex mutex_;
  std::vector<std::unique_ptr<Block<char>>> blocks_;
};

}  // namespace vtp::search
