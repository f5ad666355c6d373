// Instruction sets without a dot product of bfloat16 pairs.
#pragma once

namespace {

struct Halves {
  static constexpr bool kHas = false;
  VTP_INLINE Floats::V dot(Floats::V sum, Floats::V, Floats::V) { return sum; }
  VTP_INLINE double round_row(const float*, int64_t, float*) { return 0; }
  VTP_INLINE void round_pair(const float*, const float*, uint32_t*, float*) {}
};

}  // namespace
