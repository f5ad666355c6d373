// The search of csrc/cuda on the CPU, for ctypes: inputs and results are copied to and from guarded memory.
#include <type_traits>

#include "driver.h"
#include "guarded.h"
#include "search_launch.cuh"

using namespace vtp::cuda;

// `stride` is that of the vectors, in elements; `chunk` (a multiple of 256, or 0) lowers how many rows are searched at
// a time; `processors` decides how many splits there are. `levels` becomes how many rows of the last chunk bf16
// left undecided, and how many float32.
extern "C" int vtp_shim_search(const void* vectors, long long rows, long long stride, const void* codebook, int codes,
                               int width, int type, int metric, const double* weight, int chunk, int processors,
                               unsigned long long seed, long long* index, void* distance, int* levels) {
  return shim::guarded_call([&] {
    shim::set_seed(seed);
    const Type element = static_cast<Type>(type);
    const size_t bytes = element_size(element), result = element == Type::f64 ? 8 : 4;
    const size_t used = rows == 0 ? 0 : ((rows - 1) * stride + width) * bytes;
    const shim::Guarded x(vectors, used), c(codebook, static_cast<size_t>(codes) * width * bytes);
    const shim::Guarded w(weight, weight == nullptr ? 0 : static_cast<size_t>(width) * 8);
    const shim::Guarded found(rows * 8), far(rows * result);
    const bool cosine = static_cast<Metric>(metric) == Metric::cosine;
    Plan plan = make_plan(rows, codes, width, processors);
    if (chunk != 0 && chunk < plan.chunk) plan.chunk = chunk;
    Workspace space{};
    const size_t size = lay_out(plan, cosine, nullptr, space);
    const shim::Guarded memory(size);
    lay_out(plan, cosine, memory.data(), space);
    const Matrix vector_matrix{x.data(), stride, rows, element}, code_matrix{c.data(), width, codes, element};
    const Problem problem{{vector_matrix, nullptr}, {code_matrix, nullptr}, width, static_cast<Metric>(metric),
                          weight == nullptr ? nullptr : w.as<const double>()};
    launch_search(problem, plan, space, found.as<long long>(), far.data(), nullptr);
    std::memcpy(index, found.data(), found.size());
    std::memcpy(distance, far.data(), far.size());
    levels[0] = space.meta->undecided_count;
    levels[1] = space.meta->scan_count;
  });
}
