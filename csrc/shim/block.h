// Runs the blocks of a CUDA grid on the CPU, one after another; each thread of a block is a fiber.
//
// A fiber runs until it waits: for the block (__syncthreads), for its warp (shuffles, votes, mma, ldmatrix,
// __syncwarp) or until it ends. Which runnable fiber comes next is random, drawn from a seed; a drawn warp keeps
// going for a random while, so that it may run far ahead of its neighbours. Missing barriers thus change results.
// Shared memory starts as NaN and ends at an unmapped page. A cp.async makes its target NaN at once and copies
// only when its thread waits for it: a missing wait, or a target that others still read, shows as NaN.
//
// Not modelled: the memory model between barriers, timing, more than one block at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>

namespace shim {

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

// What a kernel sees of the thread that runs.
extern dim3 thread_index, block_index, block_size, grid_size;

// Runs `body` for every thread of the grid. Throws std::runtime_error with the place on a deadlock, an access out
// of bounds, a misaligned or divergent warp operation. `name` is the kernel's, for messages.
void launch(const char* name, dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()>& body);

// Fiber order of the launches that follow.
void set_seed(uint64_t seed);

unsigned char* shared_memory();
// Whether [pointer, pointer + bytes) lies in the block's shared memory.
bool in_shared(const void* pointer, size_t bytes);
// Ends the launch with an error that names kernel, block and thread.
[[noreturn]] void fail(const std::string& what);

void sync_block();

// All 32 lanes of a warp call this with the same `kind`; the last to arrive runs perform(arguments of the lanes).
void warp_collective(const char* kind, unsigned mask, void* argument, void (*perform)(void** lanes));

void async_copy(void* target, const void* source, int bytes, int valid);
void async_commit();
void async_wait(int groups_left);

}  // namespace shim
