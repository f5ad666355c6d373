#include "search_cache.h"

#include <algorithm>
#include <atomic>
#include <functional>

namespace vtp::search {

std::shared_ptr<const Packed> Cache::find(const Key& key) {
  const std::lock_guard lock(mutex_);
  const auto at = std::find_if(entries_.begin(), entries_.end(), [&](const Entry& e) { return e.key.same(key); });
  if (at == entries_.end()) return nullptr;
  at->key.address = key.address;  // the copy that lives on
  entries_.splice(entries_.begin(), entries_, at);
  return at->packed;
}

std::shared_ptr<Packed> Cache::recycle(const Key& key) {
  const std::lock_guard lock(mutex_);
  const auto at = std::find_if(entries_.begin(), entries_.end(), [&](const Entry& e) {
    return e.key.address == key.address && e.key.count == key.count && e.key.width == key.width &&
           e.key.kernel == key.kernel && e.key.metric == key.metric && e.packed.use_count() == 1;
  });
  if (at == entries_.end()) return std::make_shared<Packed>();
  // use_count() reads without order. The last search that let go of the memory did so with release; what it read
  // there has to be done before the caller writes.
  std::atomic_thread_fence(std::memory_order_acquire);
  std::shared_ptr<Packed> packed = std::move(at->packed);
  entries_.erase(at);
  return packed;
}

void Cache::keep(const Key& key, std::shared_ptr<Packed> packed) {
  std::list<Entry> dropped;  // freed after the lock
  const std::lock_guard lock(mutex_);
  const size_t size = packed->bytes();
  if (size > kBytes) return;
  size_t total = size, count = 1;
  for (auto at = entries_.begin(); at != entries_.end();) {
    const auto next = std::next(at);
    total += at->packed->bytes();
    if (at->key.same(key) || ++count > kEntries || total > kBytes) {
      total -= at->packed->bytes();
      dropped.splice(dropped.begin(), entries_, at);
    }
    at = next;
  }
  entries_.push_front({key, std::move(packed)});
}

void Cache::forget(const void* first, const void* last) {
  std::list<Entry> dropped;
  const std::lock_guard lock(mutex_);
  for (auto at = entries_.begin(); at != entries_.end();) {
    const auto next = std::next(at);
    const std::less<const void*> before;
    if (!before(at->key.address, first) && before(at->key.address, last)) {
      dropped.splice(dropped.begin(), entries_, at);
    }
    at = next;
  }
}

size_t Cache::entries() {
  const std::lock_guard lock(mutex_);
  return entries_.size();
}

size_t Cache::bytes() {
  const std::lock_guard lock(mutex_);
  size_t total = 0;
  for (const Entry& entry : entries_) total += entry.packed->bytes();
  return total;
}

std::unique_ptr<Block<char>> ScratchPool::take() {
  const std::lock_guard lock(mutex_);
  if (blocks_.empty()) return std::make_unique<Block<char>>();
  std::unique_ptr<Block<char>> block = std::move(blocks_.back());
  blocks_.pop_back();
  return block;
}

void ScratchPool::give(std::unique_ptr<Block<char>> block, size_t most) {
  const std::lock_guard lock(mutex_);
  if (blocks_.size() < most) blocks_.push_back(std::move(block));
}

}  // namespace vtp::search
