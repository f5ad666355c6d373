// Tensor-core instructions of sm_80 for the warp of the running fiber, exact in which lane holds which element.
//
// Sums are made the pessimistic way that was measured on hardware (Fasi et al., 2021): the addends of one step are
// aligned to the largest, cut (not rounded) to 24 bits, added exactly, and the sum is cut again.
#pragma once

#include <cstdint>

namespace shim {

float bf16_to_float(uint16_t bits);
uint16_t float_to_bf16(float value);  // to nearest, ties to even
float half_to_float(uint16_t bits);
uint16_t float_to_half(float value);  // to nearest, ties to even
uint32_t float_to_tf32(float value);  // to nearest, ties away from zero, as cvt.rna.tf32.f32

// d = a * b + c of mma.sync.aligned.m16n8k16.row.col.f32.{bf16,f16}.{bf16,f16}.f32; c is replaced by d.
void mma_m16n8k16(const uint32_t (&a)[4], const uint32_t (&b)[2], float (&c)[4], bool half);
// ... of mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32; the low 13 bits of a and b are ignored.
void mma_m16n8k8(const uint32_t (&a)[4], const uint32_t (&b)[2], float (&c)[4]);
// ldmatrix.sync.aligned.m8n8.x4[.trans].shared.b16: lane 8 i + j gives the address of row j of matrix i.
void load_matrices(uint32_t (&d)[4], const void* row, bool transposed);

}  // namespace shim
