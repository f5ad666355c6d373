// The instruction set that the CPU kernels of this process use. Needs no torch.
#pragma once

namespace vtp {

// In rising order: each can run what the ones before it can.
enum class Isa { portable, avx2, avx512, avx512bf16 };

// The best that this CPU has, unless the environment variable VTP_CPU_ISA names a lower one; the variable is
// read on every call. Throws std::runtime_error if it names one that is unknown or that this CPU lacks.
Isa isa();

// "portable", "avx2", "avx512" or "avx512bf16".
const char* name_of(Isa isa);

}  // namespace vtp
