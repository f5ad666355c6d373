// Fibers: one stack each, switched by hand. A CUDA thread of the shim is a fiber.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace shim {

using Entry = void (*)();

#if defined(__x86_64__)

// Saves the callee-saved registers and the stack pointer of the caller, then continues at `load`.
extern "C" void vtp_shim_switch(void** save, void* load);

class Fiber {
 public:
  static constexpr size_t kStack = 128 * 1024;

  // Makes the fiber begin `entry` the next time it is entered. `entry` must never return.
  void reset(Entry entry) {
    if (!stack_) stack_.reset(static_cast<char*>(std::aligned_alloc(64, kStack)));
    void** top = reinterpret_cast<void**>(stack_.get() + kStack - 64);
    *--top = nullptr;  // a return address for `entry`: keeps the stack aligned as after a call
    *--top = reinterpret_cast<void*>(entry);
    for (int i = 0; i < 6; ++i) *--top = nullptr;
    pointer_ = top;
  }
  void enter(Fiber& from) { vtp_shim_switch(&from.pointer_, pointer_); }

 private:
  struct Free {
    void operator()(char* p) const { std::free(p); }
  };
  std::unique_ptr<char, Free> stack_;
  void* pointer_ = nullptr;
};

#else

class Fiber {
 public:
  static constexpr size_t kStack = 128 * 1024;

  void reset(Entry entry) {
    if (!stack_) stack_.reset(new char[kStack]);
    getcontext(&context_);
    context_.uc_stack.ss_sp = stack_.get();
    context_.uc_stack.ss_size = kStack;
    context_.uc_link = nullptr;
    makecontext(&context_, entry, 0);
  }
  void enter(Fiber& from) { swapcontext(&from.context_, &context_); }

 private:
  std::unique_ptr<char[]> stack_;
  ucontext_t context_{};
};

#endif

}  // namespace shim
