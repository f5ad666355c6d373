#if defined(__x86_64__)
#include <immintrin.h>

#include "peak.h"

namespace vtp {

int64_t multiply_adds_bfloat16(int64_t steps) {
    constexpr int kChains = 16;
    __m512 sums[kChains];
    for (__m512& sum : sums) sum = _mm512_setzero_ps();
    const __m512bh factor = (__m512bh)_mm512_set1_epi16(0x3f00);
    for (int64_t step = 0; step < steps; ++step)
        for (__m512& sum : sums) {
            sum = _mm512_dpbf16_ps(sum, factor, factor);
            asm volatile("" : "+v"(sum));
        }
    return steps * kChains * 32 * 2;
}

}  // namespace vtp
#endif
