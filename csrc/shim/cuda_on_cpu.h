// The part of CUDA C++ that the kernels in csrc/cuda use, for a plain C++ compiler.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "block.h"
#include "tensor_core.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __restrict__ __restrict
#define __launch_bounds__(...)

#define threadIdx shim::thread_index
#define blockIdx shim::block_index
#define blockDim shim::block_size
#define gridDim shim::grid_size

using shim::dim3;
using std::isnan;

inline void __syncthreads() { shim::sync_block(); }
inline void __syncwarp(unsigned mask = 0xFFFFFFFFu) {
  shim::warp_collective("__syncwarp", mask, nullptr, nullptr);
}

namespace shim {

template <class T>
struct Exchange {
  T value;
  int source;
  T result;
};

template <class T>
T exchange(const char* kind, unsigned mask, T value, int source) {
  Exchange<T> mine{value, source & 31, value};
  warp_collective(kind, mask, &mine, [](void** lanes) {
    for (int i = 0; i < 32; ++i) {
      auto* to = static_cast<Exchange<T>*>(lanes[i]);
      to->result = static_cast<Exchange<T>*>(lanes[to->source])->value;
    }
  });
  return mine.result;
}

struct Vote {
  bool value;
  unsigned result;
};

inline unsigned vote(const char* kind, unsigned mask, bool value) {
  Vote mine{value, 0};
  warp_collective(kind, mask, &mine, [](void** lanes) {
    unsigned bits = 0;
    for (int i = 0; i < 32; ++i) bits |= unsigned{static_cast<Vote*>(lanes[i])->value} << i;
    for (int i = 0; i < 32; ++i) static_cast<Vote*>(lanes[i])->result = bits;
  });
  return mine.result;
}

inline int lane() { return static_cast<int>(thread_index.x % 32); }

}  // namespace shim

template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lanes) {
  return shim::exchange("__shfl_xor_sync", mask, value, shim::lane() ^ lanes);
}
template <class T>
T __shfl_sync(unsigned mask, T value, int source) {
  return shim::exchange("__shfl_sync", mask, value, source);
}
inline int __any_sync(unsigned mask, bool value) { return shim::vote("__any_sync", mask, value) != 0; }
inline unsigned __ballot_sync(unsigned mask, bool value) { return shim::vote("__ballot_sync", mask, value); }

inline int __ffs(int x) { return __builtin_ffs(x); }

template <class T>
T atomicAdd(T* address, T value) {
  const T old = *address;
  *address = old + value;
  return old;
}

inline int atomicMin(int* address, int value) {
  const int old = *address;
  if (value < old) *address = value;
  return old;
}

// One rounding each: compile with -ffp-contract=off.
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dsub_rn(double a, double b) { return a - b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __ddiv_rn(double a, double b) { return a / b; }
inline double __dsqrt_rn(double a) { return std::sqrt(a); }
