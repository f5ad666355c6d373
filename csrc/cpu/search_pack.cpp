#include "search_pack.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <mutex>

namespace vtp::search {
namespace {

constexpr int64_t kMaxChunks = 32;     // of the survey; bounds the memory of its sums
constexpr int64_t kChunk = 1024;       // codes a chunk, at least
constexpr double kOddNorm = 16;        // squared norm over the median from which on a code is unusual
constexpr int64_t kOddShare = 8;       // at most one in so many is treated as unusual
constexpr double kFarNorm = 1e30;      // squared norm over the median beyond which float32 scores could overflow
constexpr int64_t kSample = 64;        // codes whose median is the centre where the mean is no good
constexpr double kTiny = 0x1p-1073;    // more than a square can lose to underflow

int64_t chunk_of(int64_t count) { return std::max(kChunk, (count + kMaxChunks - 1) / kMaxChunks); }

bool finite(double v) { return v - v == 0; }

double median_of(std::vector<double>& values) {
  std::nth_element(values.begin(), values.begin() + values.size() / 2, values.end());
  return values[values.size() / 2];
}

}  // namespace

size_t Packed::bytes() const {
  const size_t doubles = radius_.capacity() + error_.capacity() + centre_.capacity() + factor_.capacity() +
                         weight_.capacity() + prescale_.capacity() + inverse_.capacity();
  return copy_.bytes() + panel_.bytes() + bias_.bytes() + half_.bytes() + 8 * doubles +
         4 * (slots_.capacity() + special_.capacity() + centre32_.capacity());
}

void Packed::build(const Source& source, const Tasks& tasks) {
  const Rows& given = source.rows;
  const bool wide = given.kind == Kind::f64;
  const int64_t count = given.count, width = given.width;
  codes_ = Codes{};
  codes_.metric = source.metric;
  codes_.wide = wide;
  codes_.count = count;
  codes_.width = width;
  codes_.lanes = source.kernel->lanes;
  const void* rows = given.data;
  copied_ = !wide && given.kind != Kind::f32;
  if (copied_) {
    copy_bytes_ = copy_.need(static_cast<size_t>(count * width) / 2 + 1);
    const int64_t chunk = chunk_of(count);
    tasks((count + chunk - 1) / chunk, [&](int64_t i) {
      source.kernel->to_rows(given, i * chunk, std::min(count, (i + 1) * chunk), copy_bytes_);
    });
    rows = copy_bytes_;
  } else {
    copy_.release();
  }
  weight_.clear();
  if (source.weight) weight_.assign(source.weight, source.weight + width);
  survey(source, rows, tasks);
  choose(distinct(rows), source.kernel->lanes);
  panels(source, rows, tasks);
  // Needed while packing only.
  hash_ = {};
  square_ = {};
  sound_.reset();
}

// Hashes, unit factors, centre and squared norms.
void Packed::survey(const Source& source, const void* rows, const Tasks& tasks) {
  const int64_t count = codes_.count, width = codes_.width;
  const int64_t chunk = chunk_of(count), chunks = (count + chunk - 1) / chunk;
  const bool cosine = codes_.metric == Metric::cosine;
  hash_.resize(count);
  square_.resize(count);
  sound_ = std::make_unique<bool[]>(count);
  prescale_.resize(cosine ? count : 0);
  inverse_.resize(cosine ? count : 0);
  std::vector<double> sums(static_cast<size_t>(chunks * width), 0.0);
  centre_.assign(width, 0.0);
  Survey survey{codes_.metric,    codes_.wide,      width,          rows,           hash_.data(),  sound_.get(),
                prescale_.data(), inverse_.data(), square_.data(), centre_.data(), weight_.data()};
  tasks(chunks, [&](int64_t i) {
    source.kernel->survey(survey, i * chunk, std::min(count, (i + 1) * chunk), sums.data() + i * width);
  });
  const double sound = static_cast<double>(std::count(sound_.get(), sound_.get() + count, true));
  for (int64_t i = 0; i < chunks; i++) {
    for (int64_t d = 0; d < width; d++) centre_[d] += sums[i * width + d];
  }
  const bool plain = codes_.metric == Metric::l2 && !codes_.wide;
  for (double& m : centre_) {
    m = sound > 0 ? m / sound : 0.0;
    if (plain) m = static_cast<float>(m);
    if (!finite(m)) m = 0;
  }
  centre32_.assign((width + 31) / 32 * 32 + 64, 0.0f);
  if (plain) std::copy(centre_.begin(), centre_.end(), centre32_.begin());
  const auto squares = [&](int64_t i) { source.kernel->squares(survey, i * chunk, std::min(count, (i + 1) * chunk)); };
  tasks(chunks, squares);
  spread_ = 0;
  double most = 0, finite_squares = 0;
  std::vector<double> some;
  for (int64_t k = 0; k < count; k++) {
    if (!sound_[k] || !finite(square_[k])) continue;
    spread_ += square_[k];
    some.push_back(square_[k]);
    most = std::max(most, square_[k]);
    finite_squares++;
  }
  if (!some.empty()) spread_ /= finite_squares;
  if (some.empty() || !(most > kOddNorm * kOddNorm * median_of(some))) return;
  // A few codes far out have drawn the mean away from all others: what most codes share is their median.
  spread_ = -1;
  median_centre(rows);
  if (plain) std::copy(centre_.begin(), centre_.end(), centre32_.begin());
  tasks(chunks, squares);
}

// The median of a sample of the codes, place by place.
void Packed::median_centre(const void* rows) {
  std::vector<int64_t> sample;
  const int64_t step = std::max<int64_t>(1, codes_.count / kSample);
  for (int64_t k = 0; k < codes_.count; k += step) {
    if (sound_[k]) sample.push_back(k);
  }
  if (sample.empty()) return;
  std::vector<double> values;
  for (int64_t d = 0; d < codes_.width; d++) {
    values.clear();
    for (const int64_t k : sample) {
      const int64_t at = k * codes_.width + d;
      double v = codes_.wide ? static_cast<const double*>(rows)[at] : static_cast<const float*>(rows)[at];
      if (codes_.metric == Metric::cosine) v = (codes_.wide ? v * prescale_[k] : v) * inverse_[k];
      values.push_back(v);
    }
    centre_[d] = median_of(values);
  }
}

// Sound codes, each value once: under its lowest index.
std::vector<int32_t> Packed::distinct(const void* rows) const {
  const size_t row_bytes = static_cast<size_t>(codes_.width) * (codes_.wide ? 8 : 4);
  const char* bytes = static_cast<const char*>(rows);
  size_t capacity = 16;
  while (capacity < static_cast<size_t>(codes_.count) * 2) capacity *= 2;
  std::vector<int32_t> table(capacity, -1), found;
  found.reserve(codes_.count);
  for (int64_t k = 0; k < codes_.count; k++) {
    if (!sound_[k]) continue;
    size_t at = hash_[k] & (capacity - 1);
    bool known = false;
    for (; table[at] >= 0 && !known; at = (at + 1) & (capacity - 1)) {
      const int32_t other = table[at];
      known = hash_[other] == hash_[k] && std::memcmp(bytes + other * row_bytes, bytes + k * row_bytes, row_bytes) == 0;
    }
    if (known) continue;
    table[at] = static_cast<int32_t>(k);
    found.push_back(static_cast<int32_t>(k));
  }
  return found;
}

// Scale, order of the slots, and which codes are evaluated always.
void Packed::choose(std::vector<int32_t> codes, int32_t lanes) {
  special_.clear();
  slots_.clear();
  codes_.first_code = -1;
  if (codes_.metric == Metric::cosine) {
    bool zero = false;
    for (int64_t k = 0; k < codes_.count; k++) {
      if (std::isnan(inverse_[k])) continue;
      if (codes_.first_code < 0) codes_.first_code = k;
      if (inverse_[k] == 0 && !zero) special_.push_back(static_cast<int32_t>(k)), zero = true;
    }
  }
  const auto huge = std::stable_partition(codes.begin(), codes.end(), [&](int32_t k) { return finite(square_[k]); });
  special_.insert(special_.end(), huge, codes.end());
  codes.erase(huge, codes.end());
  codes_.usable = !codes.empty();
  codes_.scale = 1;
  if (codes.empty()) return;

  std::vector<double> squares;
  squares.reserve(codes.size());
  for (const int32_t k : codes) squares.push_back(square_[k]);
  const double limit = kOddNorm * median_of(squares);
  std::vector<int32_t> odd;
  for (const int32_t k : codes) {
    if (square_[k] > limit) odd.push_back(k);
  }
  if (odd.size() * kOddShare <= codes.size()) {
    codes.erase(std::remove_if(codes.begin(), codes.end(), [&](int32_t k) { return square_[k] > limit; }), codes.end());
  } else {
    odd.clear();
  }
  double most = 0;
  for (const int32_t k : codes) most = std::max(most, square_[k]);
  if (most > 0) {
    const int range = codes_.wide ? 1000 : 126;
    codes_.scale = std::ldexp(1.0, std::clamp(-std::ilogb(std::sqrt(most)), -range, range));
  }
  std::stable_sort(odd.begin(), odd.end(), [&](int32_t a, int32_t b) { return square_[a] < square_[b]; });
  while (!odd.empty() && !(square_[odd.back()] < kFarNorm * most)) {
    special_.push_back(odd.back());
    odd.pop_back();
  }
  const auto fill = [&](const std::vector<int32_t>& some) {
    slots_.insert(slots_.end(), some.begin(), some.end());
    slots_.resize((slots_.size() + lanes - 1) / lanes * lanes, -1);
  };
  fill(codes);
  codes_.ordinary = static_cast<int64_t>(slots_.size()) / lanes;
  fill(odd);
  codes_.panels = static_cast<int64_t>(slots_.size()) / lanes;
}

void Packed::panels(const Source& source, const void* rows, const Tasks& tasks) {
  const Kernel& kernel = *source.kernel;
  const int64_t width = codes_.width, lanes = codes_.lanes, panels = codes_.panels;
  double heaviest = 0;
  factor_.clear();
  for (const double w : weight_) {
    factor_.push_back(std::sqrt(w) * codes_.scale);
    heaviest = std::max(heaviest, w);
    if (!finite(factor_.back())) codes_.usable = false;
  }
  codes_.tiny = (codes_.scale * 0x1p-500) * (codes_.scale * 0x1p-500) * (kTiny * 0x1p1000) * (1 + heaviest) *
                static_cast<double>(width);
  double centre = 0;
  for (int64_t d = 0; d < width; d++) {
    const double m = centre_[d] * (weight_.empty() ? codes_.scale : factor_[d]);
    centre += m * m;
  }
  codes_.centre_norm = std::sqrt(centre);
  // The mean of |c|^2 is that of |c - m|^2 plus |m|^2, and no more than the largest.
  codes_.norm = spread_ < 0 ? 0 : std::sqrt(centre + spread_ * codes_.scale * codes_.scale) * 0.99;
  codes_.slots = slots_.data();
  codes_.centre = centre_.data();
  codes_.centre32 = centre32_.data();
  codes_.factor = weight_.empty() ? nullptr : factor_.data();
  codes_.weight = weight_.empty() ? nullptr : weight_.data();
  codes_.prescale = prescale_.data();
  codes_.inverse = inverse_.data();
  codes_.special = special_.data();
  codes_.specials = static_cast<int64_t>(special_.size());
  if (!codes_.usable) {
    panel_.release(), bias_.release(), half_.release();
    return;
  }
  float* panel = panel_.need(static_cast<size_t>(panels * width * lanes));
  float* bias = bias_.need(static_cast<size_t>(panels * lanes));
  uint32_t* half = nullptr;
  if (kernel.half) {
    half = half_.need(static_cast<size_t>(panels * ((width + 1) / 2) * lanes));
  } else {
    half_.release();
  }
  radius_.assign(panels, 0.0);
  error_.assign(panels, 0.0);
  const int64_t chunk = std::max<int64_t>(1, std::min<int64_t>(16, panels / 8));
  tasks((panels + chunk - 1) / chunk, [&](int64_t i) {
    Block<char> scratch;
    kernel.pack(codes_, rows, panel, bias, half, radius_.data(), error_.data(), i * chunk,
                std::min(panels, (i + 1) * chunk), scratch.need(kernel.pack_scratch(width)));
  });
  codes_.panel = panel;
  codes_.bias = bias;
  codes_.half = half;
  codes_.radius = radius_.data();
  codes_.error = error_.data();
  for (int64_t p = 0; p < codes_.ordinary; p++) {
    codes_.radius_max = std::max(codes_.radius_max, radius_[p]);
    codes_.error_max = std::max(codes_.error_max, error_[p]);
  }
}

}  // namespace vtp::search
