// Attention kernels for any processor.
#include "attention_vector_portable.h"
// The vector comes first: the kernels are written in its terms.
#include "attention_functions.h"

vtp::AttentionFunctions vtp::attention_portable() { return functions(); }
