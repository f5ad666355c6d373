// The operator vtp_cuda::nearest_code.
#include "search_launch.cuh"
#include "tensors.h"

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using namespace vtp::cuda;

Metric metric_of(const std::string& name) {
  if (name == "l2") return Metric::l2;
  if (name == "cosine") return Metric::cosine;
  STD_TORCH_CHECK(name == "weighted", "nearest_code: metric \"", name, "\" is unknown");
  return Metric::weighted;
}

// `exact` = false is allowed to be less exact, not obliged to: the screens' bounds make the exact index cheap.
std::tuple<Tensor, Tensor> nearest_code(const Tensor& vectors, const Tensor& codebook, const std::string& metric,
                                        const std::optional<Tensor>& weight, bool exact) {
  static_cast<void>(exact);
  STD_TORCH_CHECK(vectors.is_cuda() && codebook.is_cuda() && vectors.get_device() == codebook.get_device(),
                  "nearest_code: vectors and codebook must be on one CUDA device");
  STD_TORCH_CHECK(vectors.dim() == 2 && codebook.dim() == 2 && vectors.size(1) == codebook.size(1),
                  "nearest_code: vectors must be (N, D) and codebook (K, D)");
  STD_TORCH_CHECK(vectors.scalar_type() == codebook.scalar_type(),
                  "nearest_code: vectors and codebook differ in dtype");
  const int64_t rows = vectors.size(0), codes = codebook.size(0), width = vectors.size(1);
  STD_TORCH_CHECK(codes >= 1 && codes <= 1 << 20 && width >= 1 && width <= 4096,
                  "nearest_code: needs 1 to 2^20 codes of width 1 to 4096");
  const Metric kind = metric_of(metric);
  STD_TORCH_CHECK((kind == Metric::weighted) == weight.has_value(),
                  "nearest_code: only metric \"weighted\" has a weight");
  if (weight.has_value()) {
    STD_TORCH_CHECK(weight->is_cuda() && weight->is_contiguous() && weight->numel() == width &&
                        weight->scalar_type() == ScalarType::Double,
                    "nearest_code: weight must be (D,) float64 on the device of vectors");
  }
  const Type type = type_of(vectors);
  Tensor index = torch::stable::new_empty(vectors, {rows}, ScalarType::Long);
  const ScalarType wide = type == Type::f64 ? ScalarType::Double : ScalarType::Float;
  Tensor distance = torch::stable::new_empty(vectors, {rows}, wide);
  if (rows == 0) return {index, distance};

  const torch::stable::accelerator::DeviceGuard guard(vectors.get_device_index());
  const Tensor x = rows_side_by_side(vectors), c = rows_side_by_side(codebook);
  const Plan plan = make_plan(rows, static_cast<int>(codes), static_cast<int>(width), processors(vectors));
  Workspace space{};
  const auto bytes = static_cast<int64_t>(lay_out(plan, kind == Metric::cosine, nullptr, space));
  const Tensor memory = torch::stable::new_empty(vectors, {bytes}, ScalarType::Byte);
  lay_out(plan, kind == Metric::cosine, memory.mutable_data_ptr(), space);
  const Problem problem{{{x.const_data_ptr(), x.stride(0), rows, type}, nullptr},
                        {{c.const_data_ptr(), c.stride(0), codes, type}, nullptr},
                        static_cast<int>(width),
                        kind,
                        weight.has_value() ? static_cast<const double*>(weight->const_data_ptr()) : nullptr};
  launch_search(problem, plan, space, static_cast<long long*>(index.mutable_data_ptr()), distance.mutable_data_ptr(),
                current_stream(vectors));
  return {index, distance};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(vtp_cuda, m) {
  m.def("nearest_code(Tensor vectors, Tensor codebook, str metric, Tensor? weight, bool exact) -> (Tensor, Tensor)");
}
STABLE_TORCH_LIBRARY_IMPL(vtp_cuda, CUDA, m) { m.impl("nearest_code", TORCH_BOX(&nearest_code)); }
