#include <torch/csrc/stable/library.h>

#include <string>

#include "isa.h"
#include "peak.h"

namespace {

// 0 where the instruction set has no instruction for the precision.
int64_t multiply_adds(std::string precision, int64_t steps) {
    const vtp::Isa isa = vtp::isa();
#if defined(__x86_64__)
    if (precision == "bfloat16") return isa == vtp::Isa::avx512bf16 ? vtp::multiply_adds_bfloat16(steps) : 0;
    if (isa == vtp::Isa::avx512bf16 || isa == vtp::Isa::avx512) return vtp::multiply_adds_avx512(steps);
    if (isa == vtp::Isa::avx2) return vtp::multiply_adds_avx2(steps);
#endif
    (void)isa;
    return precision == "float32" ? vtp::multiply_adds_portable(steps) : 0;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(vtp_cpu, m) { m.def("multiply_adds(str precision, int steps) -> int"); }
STABLE_TORCH_LIBRARY_IMPL(vtp_cpu, CompositeExplicitAutograd, m) {
    m.impl("multiply_adds", TORCH_BOX(&multiply_adds));
}
