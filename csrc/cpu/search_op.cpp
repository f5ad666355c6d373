// The operators of the search: checks, output, threads.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <exception>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "isa.h"
#include "search_cache.h"

namespace {

using namespace vtp::search;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int64_t kChecksumChunk = 1 << 18;  // bytes
constexpr double kSerialWork = 1 << 18;      // multiply-adds below which threads don't pay
constexpr int64_t kShare = 768;              // rows that a thread takes at a time, at most

// The one state that outlives a call; both are bounded and locked. Never destroyed: other threads may still
// search while the process ends.
Cache& cache() {
  static Cache* const it = new Cache;
  return *it;
}

ScratchPool& scratch_pool() {
  static ScratchPool* const it = new ScratchPool;
  return *it;
}

const Kernel& kernel() {
#if defined(__x86_64__)
  switch (vtp::isa()) {
    case vtp::Isa::avx512bf16: return kAvx512Bf16;
    case vtp::Isa::avx512: return kAvx512;
    case vtp::Isa::avx2: return kAvx2;
    case vtp::Isa::portable: break;
  }
#endif
  return kPortable;
}

Kind kind_of(const Tensor& tensor, const char* name) {
  switch (tensor.scalar_type()) {
    case ScalarType::Float: return Kind::f32;
    case ScalarType::Double: return Kind::f64;
    case ScalarType::BFloat16: return Kind::bf16;
    case ScalarType::Half: return Kind::f16;
    default: STD_TORCH_CHECK(false, "nearest_code: ", name, " must be float32, float64, bfloat16 or float16");
  }
}

Metric metric_of(const std::string& name) {
  if (name == "l2") return Metric::l2;
  if (name == "cosine") return Metric::cosine;
  if (name == "weighted") return Metric::weighted;
  STD_TORCH_CHECK(false, "nearest_code: metric \"", name, "\" is unknown; use l2, cosine or weighted");
}

// task(0) ... task(count - 1) on torch's threads; the first exception is thrown again here.
void in_parallel(int64_t count, const std::function<void(int64_t)>& task) {
  std::exception_ptr failure;
  std::mutex mutex;
  const auto guarded = [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; i++) {
      try {
        task(i);
      } catch (...) {
        const std::lock_guard lock(mutex);
        if (!failure) failure = std::current_exception();
      }
    }
  };
  if (count == 1) {
    guarded(0, 1);
  } else {
    torch::stable::parallel_for(0, count, 1, guarded);
  }
  if (failure) std::rethrow_exception(failure);
}

uint64_t checksum_of(const Kernel& kernel, const void* data, int64_t bytes) {
  const int64_t chunks = std::max<int64_t>(1, (bytes + kChecksumChunk - 1) / kChecksumChunk);
  std::vector<uint64_t> parts(chunks);
  in_parallel(chunks, [&](int64_t i) {
    const int64_t first = i * kChecksumChunk;
    parts[i] = kernel.checksum(static_cast<const char*>(data) + first, std::min(kChecksumChunk, bytes - first));
  });
  return chunks == 1 ? parts[0] : kernel.checksum(parts.data(), parts.size() * sizeof parts[0]);
}

std::shared_ptr<const Packed> packed_codebook(const Kernel& kernel, Metric metric, const Rows& codes,
                                              const double* weight, const void* address) {
  const int64_t item = codes.kind == Kind::f64 ? 8 : codes.kind == Kind::f32 ? 4 : 2;
  uint64_t checksum = checksum_of(kernel, codes.data, codes.count * codes.width * item);
  if (weight) {
    const uint64_t both[2] = {checksum, kernel.checksum(weight, codes.width * sizeof(double))};
    checksum = kernel.checksum(both, sizeof both);
  }
  const Key key{&kernel, metric, codes.kind, codes.count, codes.width, checksum, address};
  if (std::shared_ptr<const Packed> known = cache().find(key)) return known;
  std::shared_ptr<Packed> fresh = cache().recycle(key);
  fresh->build({&kernel, metric, codes, weight}, in_parallel);
  cache().keep(key, fresh);
  return fresh;
}

void run(const Kernel& kernel, Job& job) {
  const int64_t rows = job.rows.count, threads = std::max<int64_t>(1, torch::stable::get_num_threads());
  const double work = static_cast<double>(rows) * job.codes->count * job.codes->width;
  const int64_t block = kernel.block(job.codes->width), workers = work < kSerialWork ? 1 : threads;
  // Small enough that every thread has some, large enough that the screens' blocks are full.
  const int64_t fair = (rows + workers - 1) / workers;
  job.share = std::min(fair, std::max(block, std::min(kShare, fair / 4)));
  const int64_t tasks = std::min(workers, (rows + job.share - 1) / job.share);
  const size_t bytes = kernel.search_scratch(job);
  std::vector<std::unique_ptr<Block<char>>> blocks(tasks);
  for (auto& scratch : blocks) {
    scratch = scratch_pool().take();
    scratch->need(bytes);
  }
  in_parallel(tasks, [&](int64_t i) { kernel.search(job, blocks[i]->need(bytes)); });
  for (auto& scratch : blocks) scratch_pool().give(std::move(scratch), static_cast<size_t>(threads));
}

std::tuple<Tensor, Tensor> search(const Tensor& vectors, const Tensor& codebook, const std::string& metric_name,
                                  const std::optional<Tensor>& weight, bool exact, Counters* counters) {
  const bool matrices = vectors.dim() == 2 && codebook.dim() == 2;
  STD_TORCH_CHECK(matrices && vectors.size(1) == codebook.size(1) && codebook.size(1) > 0,
                  "nearest_code: vectors must be (N, D) and codebook (K, D)");
  STD_TORCH_CHECK(codebook.size(0) > 0 && codebook.size(0) < INT32_MAX,
                  "nearest_code: codebook has no code, or too many");
  STD_TORCH_CHECK(vectors.scalar_type() == codebook.scalar_type(),
                  "nearest_code: vectors and codebook differ in dtype");
  const Metric metric = metric_of(metric_name);
  STD_TORCH_CHECK((metric == Metric::weighted) == weight.has_value(),
                  "nearest_code: weight goes with the metric weighted");
  std::optional<Tensor> heavy;
  if (weight) {
    const bool fits = weight->dim() == 1 && weight->size(0) == codebook.size(1);
    STD_TORCH_CHECK(fits && weight->scalar_type() == ScalarType::Double, "nearest_code: weight must be (D,) float64");
    heavy = torch::stable::contiguous(*weight);
  }
  const Tensor codes = torch::stable::contiguous(codebook);
  const Kind kind = kind_of(codes, "codebook");
  const Rows code_rows{codes.const_data_ptr(), kind, codes.size(0), codes.size(1), codes.size(1), 1};
  const Rows rows{vectors.const_data_ptr(), kind,              vectors.size(0),
                  vectors.size(1),          vectors.stride(0), vectors.stride(1)};
  const ScalarType out = kind == Kind::f64 ? ScalarType::Double : ScalarType::Float;
  Tensor index = torch::stable::new_empty(vectors, {rows.count}, ScalarType::Long);
  Tensor distance = torch::stable::new_empty(vectors, {rows.count}, out);
  if (rows.count == 0) return {index, distance};
  const Kernel& chosen = kernel();
  const std::shared_ptr<const Packed> packed =
      packed_codebook(chosen, metric, code_rows, heavy ? static_cast<const double*>(heavy->const_data_ptr()) : nullptr,
                      codebook.const_data_ptr());
  int64_t next = 0;
  Job job{&packed->codes(),
          packed->rows(code_rows.data),
          rows,
          exact,
          static_cast<int64_t*>(index.mutable_data_ptr()),
          distance.mutable_data_ptr(),
          &next,
          rows.count,
          counters};
  run(chosen, job);
  return {index, distance};
}

std::tuple<Tensor, Tensor> nearest_code(const Tensor& vectors, const Tensor& codebook, std::string metric,
                                        std::optional<Tensor> weight, bool exact) {
  return search(vectors, codebook, metric, weight, exact, nullptr);
}

// What became of the rows of such a search, for tests and tuning.
std::vector<int64_t> nearest_code_counters(const Tensor& vectors, const Tensor& codebook, std::string metric,
                                           std::optional<Tensor> weight, bool exact) {
  Counters counters{};
  search(vectors, codebook, metric, weight, exact, &counters);
  return {counters.evaluated, counters.redone, counters.threshold, counters.doubled, counters.compared};
}

void forget_codebook(int64_t first, int64_t last) {
  cache().forget(reinterpret_cast<const void*>(first), reinterpret_cast<const void*>(last));
}

std::vector<int64_t> packed_codebooks() {
  return {static_cast<int64_t>(cache().entries()), static_cast<int64_t>(cache().bytes())};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(vtp_cpu, m) {
  m.def("nearest_code(Tensor vectors, Tensor codebook, str metric, Tensor? weight, bool exact)"
        " -> (Tensor index, Tensor distance)");
  m.def("nearest_code_counters(Tensor vectors, Tensor codebook, str metric, Tensor? weight, bool exact) -> int[]");
  m.def("forget_codebook(int first, int last) -> ()");
  m.def("packed_codebooks() -> int[]");
}

STABLE_TORCH_LIBRARY_IMPL(vtp_cpu, CPU, m) {
  m.impl("nearest_code", TORCH_BOX(&nearest_code));
  m.impl("nearest_code_counters", TORCH_BOX(&nearest_code_counters));
}

STABLE_TORCH_LIBRARY_IMPL(vtp_cpu, CompositeExplicitAutograd, m) {
  m.impl("forget_codebook", TORCH_BOX(&forget_codebook));
  m.impl("packed_codebooks", TORCH_BOX(&packed_codebooks));
}
