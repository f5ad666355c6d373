#include "block.h"

#include <setjmp.h>
#include <signal.h>

#include <cstring>
#include <memory>
#include <stdexcept>
#include <vector>

#include "fiber.h"
#include "guarded.h"

namespace shim {

dim3 thread_index, block_index, block_size, grid_size;

namespace {

constexpr int kWarp = 32;

struct Copy {
  void* target;
  const void* source;
  int bytes, valid, group;
};

struct Thread {
  Fiber fiber;
  dim3 index;
  std::vector<Copy> copies;
  int group = 0;
  bool done = false;
};

struct Warp {
  std::vector<int> runnable;  // threads
  const char* kind = nullptr;
  int arrived = 0;
  void* lanes[kWarp];
};

struct Random {
  uint64_t state = 1;
  uint64_t next() {  // splitmix64
    uint64_t z = (state += 0x9E3779B97F4A7C15u);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
  }
  size_t below(size_t n) { return static_cast<size_t>(next() % n); }
};

std::vector<std::unique_ptr<Thread>> threads;
std::vector<Warp> warps;
int count = 0, current = 0, live = 0, waiting = 0;
const char* kernel = "";
const std::function<void()>* body = nullptr;
Fiber scheduler;
std::unique_ptr<Guarded> shared;
Random random_source;
sigjmp_buf escape;
std::string error;

std::string place() {
  auto show = [](dim3 d) {
    return std::to_string(d.x) + "," + std::to_string(d.y) + "," + std::to_string(d.z);
  };
  return std::string(kernel) + " block (" + show(block_index) + ") thread (" + show(thread_index) + "): ";
}

void on_fault(int) { siglongjmp(escape, 1); }

// SIGSEGV and SIGBUS become errors of the launch while this object lives.
class FaultHandler {
 public:
  FaultHandler() : stack_(64 * 1024) {
    stack_t alternative{};
    alternative.ss_sp = stack_.data();
    alternative.ss_size = stack_.size();
    sigaltstack(&alternative, &old_stack_);
    struct sigaction action {};
    action.sa_handler = on_fault;
    action.sa_flags = SA_ONSTACK;
    sigaction(SIGSEGV, &action, &old_segv_);
    sigaction(SIGBUS, &action, &old_bus_);
  }
  ~FaultHandler() {
    sigaction(SIGSEGV, &old_segv_, nullptr);
    sigaction(SIGBUS, &old_bus_, nullptr);
    sigaltstack(&old_stack_, nullptr);
  }

 private:
  std::vector<char> stack_;
  stack_t old_stack_{};
  struct sigaction old_segv_ {}, old_bus_ {};
};

// Gives the processor back until somebody makes this thread runnable.
void wait() {
  const int me = current;
  scheduler.enter(threads[me]->fiber);
  current = me;
  thread_index = threads[me]->index;
}

void thread_main() {
  (*body)();
  Thread& me = *threads[current];
  if (!me.copies.empty()) fail("ends with cp.async copies that were never waited for");
  me.done = true;
  --live;
  wait();
  std::abort();
}

void run_block() {
  std::memset(shared->data(), 0xFF, shared->size());
  for (Warp& warp : warps) {
    warp.runnable.clear();
    warp.arrived = 0;
  }
  for (int i = 0; i < count; ++i) {
    Thread& thread = *threads[i];
    thread.index = dim3(i % block_size.x, i / block_size.x % block_size.y, i / (block_size.x * block_size.y));
    thread.copies.clear();
    thread.group = 0;
    thread.done = false;
    thread.fiber.reset(thread_main);
    warps[i / kWarp].runnable.push_back(i);
  }
  live = count;
  waiting = 0;
  size_t warp = 0;
  uint64_t turns = 0;
  while (live != 0) {
    if (turns == 0 || warps[warp].runnable.empty()) {
      size_t tries = warps.size();
      warp = random_source.below(warps.size());
      while (warps[warp].runnable.empty() && tries-- != 0) warp = (warp + 1) % warps.size();
      if (warps[warp].runnable.empty()) fail("deadlock: some threads wait for others that never come");
      turns = uint64_t{1} << (4 * random_source.below(5));
    }
    --turns;
    std::vector<int>& list = warps[warp].runnable;
    const size_t pick = random_source.below(list.size());
    current = list[pick];
    list[pick] = list.back();
    list.pop_back();
    thread_index = threads[current]->index;
    threads[current]->fiber.enter(scheduler);
  }
}

}  // namespace

void fail(const std::string& what) {
  error = place() + what;
  siglongjmp(escape, 2);
}

void set_seed(uint64_t seed) { random_source.state = seed * 0x2545F4914F6CDD1Du + 1; }

void launch(const char* name, dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()>& run) {
  kernel = name;
  body = &run;
  grid_size = grid;
  block_size = block;
  count = static_cast<int>(block.x * block.y * block.z);
  if (grid.x == 0 || grid.y == 0 || grid.z == 0 || count == 0 || count > 1024 || count % kWarp != 0 ||
      grid.y > 65535 || grid.z > 65535) {
    throw std::runtime_error(std::string(name) + ": bad grid or block");
  }
  while (static_cast<int>(threads.size()) < count) threads.push_back(std::make_unique<Thread>());
  warps.assign(count / kWarp, Warp{});
  shared = std::make_unique<Guarded>(shared_bytes);
  FaultHandler handler;
  const int jumped = sigsetjmp(escape, 1);
  if (jumped != 0) throw std::runtime_error(jumped == 1 ? place() + "access out of bounds" : error);
  for (unsigned z = 0; z < grid.z; ++z) {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x; ++x) {
        block_index = dim3(x, y, z);
        run_block();
      }
    }
  }
}

unsigned char* shared_memory() { return shared->as<unsigned char>(); }

bool in_shared(const void* pointer, size_t bytes) {
  const auto* first = shared->as<const unsigned char>();
  const auto* p = static_cast<const unsigned char*>(pointer);
  return p >= first && p + bytes <= first + shared->size();
}

void sync_block() {
  if (live != count) fail("__syncthreads after some threads have ended");
  if (++waiting < count) {
    wait();
    return;
  }
  waiting = 0;
  for (int i = 0; i < count; ++i) {
    if (i != current) warps[i / kWarp].runnable.push_back(i);
  }
}

void warp_collective(const char* kind, unsigned mask, void* argument, void (*perform)(void** lanes)) {
  if (mask != 0xFFFFFFFFu) fail(std::string(kind) + ": only whole warps are modelled");
  Warp& warp = warps[current / kWarp];
  if (warp.arrived != 0 && std::strcmp(warp.kind, kind) != 0) {
    fail(std::string("lanes of one warp meet in ") + warp.kind + " and " + kind);
  }
  warp.kind = kind;
  warp.lanes[current % kWarp] = argument;
  if (++warp.arrived < kWarp) {
    wait();
    return;
  }
  warp.arrived = 0;
  if (perform != nullptr) perform(warp.lanes);
  const int first = current / kWarp * kWarp;
  for (int i = first; i < first + kWarp; ++i) {
    if (i != current) warp.runnable.push_back(i);
  }
}

void async_copy(void* target, const void* source, int bytes, int valid) {
  if (!in_shared(target, bytes)) fail("cp.async to outside of shared memory");
  if (reinterpret_cast<uintptr_t>(target) % bytes != 0) fail("cp.async to a misaligned target");
  if (valid != 0 && reinterpret_cast<uintptr_t>(source) % bytes != 0) fail("cp.async from a misaligned source");
  if (valid < 0 || valid > bytes) fail("cp.async with a bad size");
  std::memset(target, 0xFF, bytes);
  Thread& me = *threads[current];
  me.copies.push_back({target, source, bytes, valid, me.group});
}

void async_commit() { ++threads[current]->group; }

void async_wait(int groups_left) {
  Thread& me = *threads[current];
  std::vector<Copy> later;
  for (const Copy& copy : me.copies) {
    if (copy.group >= me.group - groups_left) {
      later.push_back(copy);
      continue;
    }
    if (copy.valid != 0) std::memcpy(copy.target, copy.source, copy.valid);
    std::memset(static_cast<char*>(copy.target) + copy.valid, 0, copy.bytes - copy.valid);
  }
  me.copies.swap(later);
}

}  // namespace shim
