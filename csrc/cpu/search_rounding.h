// Every computation here rounds to nearest and keeps denormals, whatever mode the calling thread is in
// (torch.set_flush_denormal): the index must not depend on it.
#pragma once

#if defined(__SSE2__)
#include <xmmintrin.h>
#endif

namespace {

#if defined(__SSE2__)
class PlainRounding {
 public:
  PlainRounding() : before_(_mm_getcsr()) { _mm_setcsr(0x1f80); }
  ~PlainRounding() { _mm_setcsr(before_); }
  PlainRounding(const PlainRounding&) = delete;
  PlainRounding& operator=(const PlainRounding&) = delete;

 private:
  unsigned before_;
};
#else
class PlainRounding {
 public:
  PlainRounding() {}
  ~PlainRounding() {}
};
#endif

}  // namespace
