// Memory between 16 MB of unmapped address space: an access behind it, or before its page, is caught at once.
#pragma once

#include <cstddef>

namespace shim {

class Guarded {
 public:
  // `bytes` of 0xFF (NaN in every floating dtype), aligned to 16; ends at most 15 bytes before what is unmapped.
  explicit Guarded(size_t bytes);
  Guarded(const void* source, size_t bytes);
  ~Guarded();
  Guarded(Guarded&& other) noexcept;
  Guarded(const Guarded&) = delete;
  Guarded& operator=(const Guarded&) = delete;

  void* data() const { return data_; }
  size_t size() const { return bytes_; }
  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }

 private:
  void* map_ = nullptr;
  size_t mapped_ = 0;
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

}  // namespace shim
