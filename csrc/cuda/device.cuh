// What the kernels need beyond plain CUDA C++: asynchronous copies, matrix loads and tensor-core products of sm_80.
//
// The same kernels compile under nvcc and, for tests, under a C++ compiler with csrc/shim, which executes them on
// the CPU. So kernels use these wrappers, the intrinsics of csrc/shim/cuda_on_cpu.h and dynamic shared memory only.
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(__CUDACC__)
#include <cuda_runtime.h>
#define VTP_SHARED(name) extern __shared__ __align__(128) unsigned char name[]
#define VTP_UNROLL _Pragma("unroll")
#else
#include "cuda_on_cpu.h"
#define VTP_SHARED(name) unsigned char* const name = shim::shared_memory()
#define VTP_UNROLL
#endif

namespace vtp::cuda {

constexpr unsigned kFullWarp = 0xFFFFFFFFu;

// Dtype of a tensor where it is known at run time only.
enum class Type : int { f32, f64, bf16, f16 };

// Storage of the 16-bit dtypes: bits only, so that no CUDA header type reaches the shim.
struct alignas(2) Bf16 {
  static constexpr bool kIsHalf = false;
  uint16_t bits;
};
struct alignas(2) Half {
  static constexpr bool kIsHalf = true;
  uint16_t bits;
};

__device__ __forceinline__ float to_float(Bf16 x) {
#if defined(__CUDACC__)
  return __uint_as_float(static_cast<uint32_t>(x.bits) << 16);
#else
  return shim::bf16_to_float(x.bits);
#endif
}

__device__ __forceinline__ float to_float(Half x) {
#if defined(__CUDACC__)
  float y;
  asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
  return y;
#else
  return shim::half_to_float(x.bits);
#endif
}

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ double to_double(double x) { return x; }
template <class T>
__device__ __forceinline__ double to_double(T x) {
  return static_cast<double>(to_float(x));
}

template <class T>
__device__ __forceinline__ T from_float(float x);

template <>
__device__ __forceinline__ float from_float<float>(float x) {
  return x;
}

template <>
__device__ __forceinline__ Bf16 from_float<Bf16>(float x) {
#if defined(__CUDACC__)
  uint16_t bits;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(x));
  return Bf16{bits};
#else
  return Bf16{shim::float_to_bf16(x)};
#endif
}

template <>
__device__ __forceinline__ Half from_float<Half>(float x) {
#if defined(__CUDACC__)
  uint16_t bits;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x));
  return Half{bits};
#else
  return Half{shim::float_to_half(x)};
#endif
}

// Two neighbours as a register of an mma operand: `low` has the smaller index.
template <class T>
__device__ __forceinline__ uint32_t pack(float low, float high) {
  return from_float<T>(low).bits | static_cast<uint32_t>(from_float<T>(high).bits) << 16;
}

// float32 to tf32, to nearest.
__device__ __forceinline__ uint32_t to_tf32(float x) {
#if defined(__CUDACC__)
  uint32_t y;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(y) : "f"(x));
  return y;
#else
  return shim::float_to_tf32(x);
#endif
}

__device__ __forceinline__ float bits_to_float(uint32_t x) {
#if defined(__CUDACC__)
  return __uint_as_float(x);
#else
  float y;
  std::memcpy(&y, &x, 4);
  return y;
#endif
}

// 2 ** x, within 2 units in the last place.
__device__ __forceinline__ float exp2_fast(float x) {
#if defined(__CUDACC__)
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  return std::exp2(x);
#endif
}

// Starts copying 16 bytes from global to shared memory; those from `valid` on become 0. Both are aligned to 16.
__device__ __forceinline__ void copy_async(void* shared, const void* global, int valid) {
#if defined(__CUDACC__)
  const unsigned to = static_cast<unsigned>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(global), "r"(valid) : "memory");
#else
  shim::async_copy(shared, global, 16, valid);
#endif
}

// Ends a group of copies of this thread.
__device__ __forceinline__ void copy_commit() {
#if defined(__CUDACC__)
  asm volatile("cp.async.commit_group;" ::: "memory");
#else
  shim::async_commit();
#endif
}

// Waits until at most `Left` groups of this thread are under way; other threads see the data after a barrier.
template <int Left>
__device__ __forceinline__ void copy_wait() {
#if defined(__CUDACC__)
  asm volatile("cp.async.wait_group %0;" ::"n"(Left) : "memory");
#else
  shim::async_wait(Left);
#endif
}

// Four 8 x 8 matrices of 16-bit elements; lane 8 i + j gives the address of row j of matrix i.
template <bool Transposed>
__device__ __forceinline__ void load_matrices(uint32_t (&d)[4], const void* row) {
#if defined(__CUDACC__)
  const unsigned from = static_cast<unsigned>(__cvta_generic_to_shared(row));
  if constexpr (Transposed) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
                 : "r"(from)
                 : "memory");
  } else {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
                 : "r"(from)
                 : "memory");
  }
#else
  shim::load_matrices(d, row, Transposed);
#endif
}

// c += a b with a (16, 16) in rows, b (16, 8) in columns. In lane 4 g + t, with pairs of neighbours in a register:
// a = rows g, g + 8, g, g + 8 of columns 2t.., 2t.., 2t + 8.., 2t + 8..; b = rows 2t.., 2t + 8.. of column g;
// c = row g, columns 2t, 2t + 1, then row g + 8.
template <class T>
__device__ __forceinline__ void mma16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#if defined(__CUDACC__)
  if constexpr (T::kIsHalf) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  } else {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  }
#else
  shim::mma_m16n8k16(a, b, c, T::kIsHalf);
#endif
}

// c += a b in tf32, a (16, 8), b (8, 8). In lane 4 g + t: a = (g, t), (g + 8, t), (g, t + 4), (g + 8, t + 4);
// b = (t, g), (t + 4, g); c as above.
__device__ __forceinline__ void mma8(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#if defined(__CUDACC__)
  asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
               "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
  shim::mma_m16n8k8(a, b, c);
#endif
}

}  // namespace vtp::cuda
