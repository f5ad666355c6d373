// Launching a kernel, on a device or in the shim.
#pragma once

#include "device.cuh"

namespace vtp::cuda {

// Shared memory that a block can have on every GPU from sm_80 on (8.6 and 8.9 have the least).
constexpr size_t kMostShared = 99 * 1024;

}  // namespace vtp::cuda

#if defined(__CUDACC__)

#include <stdexcept>
#include <string>

namespace vtp::cuda {

using Stream = cudaStream_t;

inline void check(cudaError_t code, const char* what) {
  if (code != cudaSuccess) throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(code));
}

template <class... Parameters, class... Arguments>
void launch(const char* name, void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared, Stream stream,
            Arguments... arguments) {
  if (shared > 48 * 1024) {  // more than this has to be asked for
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared)), name);
  }
  kernel<<<grid, block, shared, stream>>>(arguments...);
  check(cudaGetLastError(), name);
}

}  // namespace vtp::cuda

#else

namespace vtp::cuda {

using Stream = void*;

template <class... Parameters, class... Arguments>
void launch(const char* name, void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared, Stream,
            Arguments... arguments) {
  shim::launch(name, grid, block, shared, [&] { kernel(arguments...); });
}

}  // namespace vtp::cuda

#endif

#define VTP_LAUNCH(kernel, ...) ::vtp::cuda::launch(#kernel, kernel, __VA_ARGS__)
