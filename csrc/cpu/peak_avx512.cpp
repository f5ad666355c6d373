#if defined(__x86_64__)
#include <immintrin.h>

#include "peak.h"

namespace vtp {

int64_t multiply_adds_avx512(int64_t steps) {
    constexpr int kChains = 16;
    __m512 sums[kChains];
    for (__m512& sum : sums) sum = _mm512_setzero_ps();
    const __m512 factor = _mm512_set1_ps(0.5f);
    for (int64_t step = 0; step < steps; ++step)
        for (__m512& sum : sums) {
            sum = _mm512_fmadd_ps(sum, factor, factor);
            asm volatile("" : "+v"(sum));
        }
    return steps * kChains * 16 * 2;
}

}  // namespace vtp
#endif
