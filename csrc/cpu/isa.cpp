#include "isa.h"

#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace vtp {
namespace {

constexpr Isa kAll[] = {Isa::portable, Isa::avx2, Isa::avx512, Isa::avx512bf16};

Isa detect() {
#if defined(__x86_64__)
  // These ask the operating system too: registers that it doesn't save are as good as missing.
  __builtin_cpu_init();
  unsigned a = 0, b = 0, c = 0, d = 0;
  const bool f16c = __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & bit_F16C) != 0;
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") || !f16c) return Isa::portable;
  if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
      !__builtin_cpu_supports("avx512vl") || !__builtin_cpu_supports("avx512dq")) {
    return Isa::avx2;
  }
  return __builtin_cpu_supports("avx512bf16") ? Isa::avx512bf16 : Isa::avx512;
#else
  return Isa::portable;
#endif
}

}  // namespace

const char* name_of(Isa isa) {
  switch (isa) {
    case Isa::portable: return "portable";
    case Isa::avx2: return "avx2";
    case Isa::avx512: return "avx512";
    case Isa::avx512bf16: return "avx512bf16";
  }
  return "unknown";
}

Isa isa() {
  static const Isa best = detect();
  const char* asked = std::getenv("VTP_CPU_ISA");
  if (asked == nullptr || *asked == '\0') return best;
  for (const Isa one : kAll) {
    if (std::strcmp(asked, name_of(one)) != 0) continue;
    if (one <= best) return one;
    throw std::runtime_error(std::string("VTP_CPU_ISA=") + asked + ": this CPU can't run it; its best is " +
                             name_of(best));
  }
  throw std::runtime_error(std::string("VTP_CPU_ISA=") + asked +
                           ": unknown; use portable, avx2, avx512 or avx512bf16");
}

}  // namespace vtp
