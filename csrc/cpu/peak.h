// Loops of independent multiply-adds: the highest rate a core can reach, for "% of peak" in benchmarks.
#pragma once
#include <cstdint>

namespace vtp {

// Each runs `steps` steps on the calling thread and returns the floating point operations it did.
int64_t multiply_adds_portable(int64_t steps);
int64_t multiply_adds_avx2(int64_t steps);
int64_t multiply_adds_avx512(int64_t steps);
int64_t multiply_adds_bfloat16(int64_t steps);  // vdpbf16ps

}  // namespace vtp
