// A packed codebook: what the screens read instead of the codes themselves.
#pragma once

#include <cstdlib>
#include <functional>
#include <memory>
#include <vector>

#include "search.h"

namespace vtp::search {

// Runs task(0) ... task(count - 1), on as many threads as there are.
using Tasks = std::function<void(int64_t count, const std::function<void(int64_t)>& task)>;

// Memory aligned to a cache line that keeps its size when it is needed again. Contents are not kept.
template <class T>
class Block {
 public:
  T* need(size_t count) {
    const size_t bytes = (count * sizeof(T) + 127) / 64 * 64;
    if (bytes > bytes_) {
      bytes_ = 0;
      data_.reset(static_cast<T*>(std::aligned_alloc(64, bytes)));
      if (!data_) throw std::bad_alloc();
      bytes_ = bytes;
    }
    return data_.get();
  }
  void release() { data_.reset(), bytes_ = 0; }
  size_t bytes() const { return bytes_; }

 private:
  struct Free {
    void operator()(T* p) const { std::free(p); }
  };
  std::unique_ptr<T, Free> data_;
  size_t bytes_ = 0;
};

// What to pack. `rows` are the codes as they lie in memory, contiguous.
struct Source {
  const Kernel* kernel;
  Metric metric;
  Rows rows;
  const double* weight;  // [width], or null
};

class Packed {
 public:
  // Packs anew, into the memory that is there. May throw std::bad_alloc.
  void build(const Source& source, const Tasks& tasks);

  const Codes& codes() const { return codes_; }
  // The codes as contiguous float32 or float64: `given`, the memory they were packed from, or a copy if that is
  // of another type.
  const void* rows(const void* given) const { return copied_ ? copy_bytes_ : given; }
  size_t bytes() const;

 private:
  void survey(const Source& source, const void* rows, const Tasks& tasks);
  void median_centre(const void* rows);
  std::vector<int32_t> distinct(const void* rows) const;
  void choose(std::vector<int32_t> codes, int32_t lanes);
  void panels(const Source& source, const void* rows, const Tasks& tasks);

  Codes codes_{};
  bool copied_ = false;
  void* copy_bytes_ = nullptr;
  Block<double> copy_;
  Block<float> panel_, bias_;
  Block<uint32_t> half_;
  std::vector<int32_t> slots_, special_;
  std::vector<double> radius_, error_, centre_, factor_, weight_, prescale_, inverse_, square_;
  double spread_ = 0;  // mean of |c - m|^2 about the mean m, or -1
  std::vector<float> centre32_;
  std::vector<uint64_t> hash_;
  std::unique_ptr<bool[]> sound_;
};

}  // namespace vtp::search
