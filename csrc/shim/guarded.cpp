#include "guarded.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <new>
#include <utility>

namespace shim {

namespace {

constexpr size_t kGuard = size_t{16} << 20;  // of address space, on either side

}  // namespace

Guarded::Guarded(size_t bytes) : bytes_(bytes) {
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  const size_t body = (bytes + page - 1) / page * page;
  mapped_ = body + 2 * kGuard;
  map_ = mmap(nullptr, mapped_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (map_ == MAP_FAILED) throw std::bad_alloc();
  char* first = static_cast<char*>(map_) + kGuard;
  if (body != 0 && mprotect(first, body, PROT_READ | PROT_WRITE) != 0) throw std::bad_alloc();
  data_ = first + body - (bytes + 15) / 16 * 16;
  if (body != 0) std::memset(first, 0xFF, body);
}

Guarded::Guarded(const void* source, size_t bytes) : Guarded(bytes) {
  if (bytes != 0) std::memcpy(data_, source, bytes);
}

Guarded::Guarded(Guarded&& other) noexcept
    : map_(std::exchange(other.map_, nullptr)),
      mapped_(other.mapped_),
      data_(other.data_),
      bytes_(other.bytes_) {}

Guarded::~Guarded() {
  if (map_ != nullptr) munmap(map_, mapped_);
}

}  // namespace shim
