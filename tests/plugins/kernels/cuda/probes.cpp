// Kernels with one fault each and their right twins, which the shim must tell apart; and its arithmetic.
#include <functional>
#include <string>
#include <vector>

#include "device.cuh"
#include "driver.h"
#include "guarded.h"
#include "launch.cuh"

namespace {

using namespace vtp::cuda;

// Reverses 256 numbers through shared memory.
template <bool Barrier>
__global__ void reverse(const float* from, float* to) {
  VTP_SHARED(memory);
  float* tile = reinterpret_cast<float*>(memory);
  tile[threadIdx.x] = from[threadIdx.x];
  if (Barrier) __syncthreads();
  to[threadIdx.x] = tile[255 - threadIdx.x];
}

// Sums four tiles of 128 numbers, streamed through two stages by the first warp.
template <bool Wait, bool Barrier>
__global__ void stream(const float* from, float* to) {
  VTP_SHARED(memory);
  auto fetch = [&](int tile) {
    if (tile < 4 && threadIdx.x < 32) {
      copy_async(memory + tile % 2 * 512 + threadIdx.x * 16, from + tile * 128 + threadIdx.x * 4, 16);
    }
    copy_commit();
  };
  float sum = 0.0f;
  fetch(0);
  fetch(1);
  for (int tile = 0; tile < 4; ++tile) {
    if (Wait) copy_wait<1>();
    __syncthreads();
    sum += reinterpret_cast<const float*>(memory + tile % 2 * 512)[threadIdx.x];
    if (Barrier) __syncthreads();  // before the stage is filled again
    fetch(tile + 2);
  }
  copy_wait<0>();
  to[threadIdx.x] = sum;
}

__global__ void read_beyond(const float* from, float* to) { to[threadIdx.x] = from[threadIdx.x + 4096]; }

__global__ void write_before(float* to) {
  if (threadIdx.x == 0) to[-4096] = 1.0f;
}

__global__ void beyond_shared(float* to) {
  VTP_SHARED(memory);
  to[threadIdx.x] = reinterpret_cast<float*>(memory)[threadIdx.x + 2048];
}

__global__ void half_a_barrier() {
  if (threadIdx.x < 32) __syncthreads();
}

__global__ void lanes_apart() {
  if (threadIdx.x % 2 == 0) {
    __syncwarp();
  } else {
    __shfl_xor_sync(kFullWarp, 1, 1);
  }
}

__global__ void never_waits(const float* from) {
  VTP_SHARED(memory);
  copy_async(memory + threadIdx.x * 16, from, 16);
  copy_commit();
}

__global__ void crooked_copy(const float* from) {
  VTP_SHARED(memory);
  copy_async(memory + threadIdx.x * 16, from + 1, 16);
  copy_commit();
  copy_wait<0>();
}

}  // namespace

// Runs the kernel called `name` on `from` (512 numbers) into `to` (256).
extern "C" int vtp_shim_fault(const char* name, unsigned long long seed, const float* from, float* to) {
  return shim::guarded_call([&] {
    shim::set_seed(seed);
    const shim::Guarded in(from, 512 * 4), out(256 * 4);
    const auto* x = in.as<const float>();
    auto* y = out.as<float>();
    const std::string which = name;
    if (which == "reverse") VTP_LAUNCH(reverse<true>, 1, 256, 1024, nullptr, x, y);
    if (which == "reverse without barrier") VTP_LAUNCH(reverse<false>, 1, 256, 1024, nullptr, x, y);
    if (which == "stream") VTP_LAUNCH((stream<true, true>), 1, 128, 1024, nullptr, x, y);
    if (which == "stream without wait") VTP_LAUNCH((stream<false, true>), 1, 128, 1024, nullptr, x, y);
    if (which == "stream that refills early") VTP_LAUNCH((stream<true, false>), 1, 128, 1024, nullptr, x, y);
    if (which == "read beyond") VTP_LAUNCH(read_beyond, 1, 32, 0, nullptr, x, y);
    if (which == "write before") VTP_LAUNCH(write_before, 1, 32, 0, nullptr, y);
    if (which == "beyond shared") VTP_LAUNCH(beyond_shared, 1, 32, 1024, nullptr, y);
    if (which == "half a barrier") VTP_LAUNCH(half_a_barrier, 1, 64, 0, nullptr);
    if (which == "lanes apart") VTP_LAUNCH(lanes_apart, 1, 32, 0, nullptr);
    if (which == "never waits") VTP_LAUNCH(never_waits, 1, 32, 512, nullptr, x);
    if (which == "crooked copy") VTP_LAUNCH(crooked_copy, 1, 32, 512, nullptr, x);
    std::memcpy(to, y, out.size());
  });
}

// `count` numbers to float16 or bfloat16, and those back; to tf32.
extern "C" int vtp_shim_convert(const float* from, int count, int half, unsigned short* to, float* back,
                                unsigned* tf32) {
  return shim::guarded_call([&] {
    for (int i = 0; i < count; ++i) {
      to[i] = half != 0 ? shim::float_to_half(from[i]) : shim::float_to_bf16(from[i]);
      back[i] = half != 0 ? shim::half_to_float(to[i]) : shim::bf16_to_float(to[i]);
      tf32[i] = shim::float_to_tf32(from[i]);
    }
  });
}

// One product of a (16, depth) in rows and b (8, depth), added to c (16, 8), all float32 that the dtype holds: depth
// 16 in float16 or bfloat16, 8 in tf32. Operands are spread over the lanes as the instruction set's manual says.
extern "C" int vtp_shim_mma(int depth, int half, const float* a, const float* b, float* c) {
  return shim::guarded_call([&] {
    shim::launch("mma", 1, 32, 0, [&] {
      const int lane = static_cast<int>(threadIdx.x), g = lane / 4, t = lane % 4;
      float d[4];
      for (int i = 0; i < 4; ++i) d[i] = c[(g + i / 2 * 8) * 8 + 2 * t + i % 2];
      uint32_t x[4], y[2];
      if (depth == 16) {
        auto two = [&](const float* p) { return half != 0 ? pack<Half>(p[0], p[1]) : pack<Bf16>(p[0], p[1]); };
        for (int i = 0; i < 4; ++i) x[i] = two(a + (g + i % 2 * 8) * 16 + 2 * t + i / 2 * 8);
        for (int i = 0; i < 2; ++i) y[i] = two(b + g * 16 + 2 * t + i * 8);
        half != 0 ? mma16<Half>(d, x, y) : mma16<Bf16>(d, x, y);
      } else {
        for (int i = 0; i < 4; ++i) x[i] = to_tf32(a[(g + i % 2 * 8) * 8 + t + i / 2 * 4]);
        for (int i = 0; i < 2; ++i) y[i] = to_tf32(b[g * 8 + t + i * 4]);
        mma8(d, x, y);
      }
      for (int i = 0; i < 4; ++i) c[(g + i / 2 * 8) * 8 + 2 * t + i % 2] = d[i];
    });
  });
}
