// Attention kernels for AVX2: compiled with the flags that its name asks for.
#if defined(__x86_64__)
#include "attention_vector_avx2.h"
// The vector comes first: the kernels are written in its terms.
#include "attention_functions.h"

vtp::AttentionFunctions vtp::attention_avx2() { return functions(); }
#endif
