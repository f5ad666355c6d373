#include <torch/csrc/stable/library.h>

#include <string>

#include "isa.h"
#include "peak.h"

namespace {

// 0 where the instruction set has no instruction for the precision.
int64_t multiply_adds(std::string precision, int64_t steps) {
    const bool half = precision == "bfloat16";
    STD_TORCH_CHECK(half || precision == "float32", "multiply_adds: precision is float32 or bfloat16, not ", precision);
    STD_TORCH_CHECK(steps >= 0, "multiply_adds: steps must not be negative, got ", steps);
    const vtp::Isa isa = vtp::isa();
#if defined(__x86_64__)
    if (half) return isa == vtp::Isa::avx512bf16 ? vtp::multiply_adds_bfloat16(steps) : 0;
    if (isa == vtp::Isa::avx512bf16 || isa == vtp::Isa::avx512) return vtp::multiply_adds_avx512(steps);
    if (isa == vtp::Isa::avx2) return vtp::multiply_adds_avx2(steps);
#endif
    (void)isa;
    return half ? 0 : vtp::multiply_adds_portable(steps);
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(vtp_cpu, m) { m.def("multiply_adds(str precision, int steps) -> int"); }
STABLE_TORCH_LIBRARY_IMPL(vtp_cpu, CompositeExplicitAutograd, m) {
    m.impl("multiply_adds", TORCH_BOX(&multiply_adds));
}
