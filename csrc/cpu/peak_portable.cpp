#include "peak.h"

namespace vtp {

int64_t multiply_adds_portable(int64_t steps) {
    constexpr int kChains = 16;
    float sums[kChains] = {};
    volatile float runtime_factor = 0.5f;  // keeps the compiler from computing the sums itself
    const float factor = runtime_factor;
    for (int64_t step = 0; step < steps; ++step)
        for (int chain = 0; chain < kChains; ++chain) sums[chain] = sums[chain] * factor + factor;
    volatile float sink = 0;
    for (float sum : sums) sink = sink + sum;
    return steps * kChains * 2;
}

}  // namespace vtp
