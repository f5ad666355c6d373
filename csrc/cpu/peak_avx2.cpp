#if defined(__x86_64__)
#include <immintrin.h>

#include "peak.h"

namespace vtp {

// Fma latency times throughput needs 8 to 10 independent chains; 12 leave registers for the factors.
int64_t multiply_adds_avx2(int64_t steps) {
    constexpr int kChains = 12;
    __m256 sums[kChains];
    for (__m256& sum : sums) sum = _mm256_setzero_ps();
    const __m256 factor = _mm256_set1_ps(0.5f);
    for (int64_t step = 0; step < steps; ++step)
        for (__m256& sum : sums) {
            sum = _mm256_fmadd_ps(sum, factor, factor);
            asm volatile("" : "+x"(sum));
        }
    return steps * kChains * 8 * 2;
}

}  // namespace vtp
#endif
