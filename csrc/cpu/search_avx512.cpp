// The search for AVX-512.
#include "search_simd_avx512.h"
#include "search_half_none.h"
//
#include "search_rounding.h"
//
#include "search_checksum.h"
#include "search_measure.h"
#include "search_rows.h"
#include "search_tile.h"
//
#include "search_panels.h"
#include "search_worker.h"
#include "search_worker_float32.h"
#include "search_worker_float64.h"

namespace vtp::search {

extern const Kernel kAvx512 = {kPanel, Halves::kHas, survey, squares, pack, pack_scratch, search_rows,
                          search_scratch, block, to_rows, checksum};

}  // namespace vtp::search
