// Attention kernels for AVX512: compiled with the flags that its name asks for.
#if defined(__x86_64__)
#include "attention_vector_avx512.h"
// The vector comes first: the kernels are written in its terms.
#include "attention_functions.h"

vtp::AttentionFunctions vtp::attention_avx512() { return functions(); }
#endif
