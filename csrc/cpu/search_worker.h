// One thread's part of a search: screens blocks of rows, evaluates what could be nearest, screens the rest again.
#pragma once

#include "search.h"
#include "search_pending.h"

namespace {

using vtp::search::Counters;
using vtp::search::Job;

constexpr int kSpan = 4;                             // panels whose scores are kept of a row as those of one ...
constexpr int64_t kSpanSteps = 8, kSpanPanels = 96;  // ... up to this width (words), from this many panels on
constexpr int64_t kStretch = 128;                    // places that the float64 screen takes at a time

// The largest float that is surely not above `v`.
VTP_INLINE float below(double v) {
  const float f = (float)v;
  return f - __builtin_fabsf(f) * 0x1p-22f - 1e-30f;
}

template <class T, Metric M>
class Worker {
  using Shape = Measure<T, M>;

 public:
  Worker(const Job& job, void* scratch)
      : job_(job), codes_(*job.codes), width_(codes_.width), ld_(padded(width_)), ld64_(padded64(width_)),
        block_(block(width_)), block64_(block64(width_)) {
    char* memory = (char*)scratch;
    carve(memory, screened_, block_memory(width_));
    carve(memory, gathered_, in_place<T>(job.rows) ? 0 : (block64_ > block_ ? block64_ : block_) * width_);
    carve(memory, line_, padded_pairs(width_));
    carve(memory, best_, kMaxBlock);
    carve(memory, columns_, kStretch * kPanel64);
    carve(memory, strips_, kPanel64 * (kStretch + 8));
    carve(memory, tiles_, kMaxBlock64 / kPoints);
    List* const lists[] = {&to_float_, &to_threshold_, &to_double_};
    for (List* list : lists) {
      carve(memory, list->items, List::kRoom);
      list->count = 0;
    }
  }

  static size_t scratch(const Job& job) {
    return Worker(job, nullptr).size_;
  }

  void run() {
    Pending rows[kMaxBlock64];
    for (;;) {
      const int64_t first = __atomic_fetch_add(job_.next, job_.share, __ATOMIC_RELAXED);
      if (first >= job_.rows.count) break;
      const int64_t last = first + job_.share < job_.rows.count ? first + job_.share : job_.rows.count;
      for (int64_t at = first; at < last;) {
        if (!codes_.usable) {
          rows[0] = {at++, 0};
          fetch(rows, 1);
          compare_all(0, rows[0].row);
          continue;
        }
        const bool doubles = skip_float();
        const int64_t most = doubles ? block64_ : block_, count = last - at < most ? last - at : most;
        for (int64_t i = 0; i < count; i++) rows[i] = {at + i, -__builtin_inf()};
        at += count;
        if (doubles) {
          threshold64(rows, count);
        } else if (Halves::kHas && codes_.half && !skip_half()) {
          half_rows_ += count;
          first_pass<true>(rows, count);
        } else {
          first_pass<false>(rows, count);
        }
        drain(false);
      }
    }
    drain(true);
    if (job_.counters) report();
  }

 private:
  // Bytes of the block of screened rows: float32 rows, pairs of bfloat16, or float64 rows.
  static int64_t block_memory(int64_t width) {
    const int64_t singles = block(width) * padded(width), doubles = block64(width) * padded64(width);
    return singles > 2 * doubles ? singles : 2 * doubles;
  }

  template <class U>
  void carve(char* memory, U*& out, int64_t count) {
    out = memory ? (U*)(memory + size_) : nullptr;
    size_ += ((size_t)count * sizeof(U) + 63) / 64 * 64;
  }

  // Which screens are not worth it: decided by how many rows they could not settle. Never for a result that is
  // not exact, where it would depend on who met which row.
  bool skip_half() const { return job_.exact && half_rows_ >= 2 * block_ && redone_ > half_rows_ * 2 / 5; }
  bool skip_float() const { return job_.exact && float_rows_ >= block_ && doubled_ > float_rows_ / 2; }

  void fetch(const Pending* rows, int64_t count) {
    for (int64_t n = 0; n < count; n++) {
      if (in_place<T>(job_.rows)) {
        row_[n] = (const T*)job_.rows.data + rows[n].row * job_.rows.stride;
      } else {
        read_row(job_.rows, rows[n].row, gathered_ + n * width_);
        row_[n] = gathered_ + n * width_;
      }
      unit_[n] = Shape::direction(row_[n], width_);
    }
  }

  // Writes the screened image of each row; rows that no screen can hold are settled here and become zeros.
  template <bool kHalf>
  void prepare(const Pending* rows, int64_t count) {
    fetch(rows, count);
    const double grow = 1 + (double)(width_ + 24) * kUnit32;  // norms are float32 sums
    const int64_t ld = kHalf ? padded_pairs(width_) : ld_, words = kHalf ? ld / 2 : ld;
    double square[kMaxBlock], lost[kMaxBlock];
    for (int64_t n = 0; n < count; n++) {
      float* out = kHalf ? line_ : screened_ + n * words;
      if constexpr (sizeof(T) == 4 && M == Metric::l2) {
        square[n] = centre_plain(codes_, row_[n], out, ld);
      } else {
        square[n] = Shape::centre(codes_, row_[n], unit_[n], out, ld);
      }
      lost[n] = kHalf ? Halves::round_row(line_, ld, screened_ + n * words) : 0;
    }
    bool all = true;
    for (int64_t n = 0; n < count; n++) {
      norm_[n] = __builtin_sqrt(square[n]) * grow + 1e-18;
      lost_[n] = __builtin_sqrt(lost[n]) * grow + 2 * kUnit32 * norm_[n];
      settled_[n] = !(square[n] < 1e37) | (unit_[n].inverse == 0);
      all &= !settled_[n];
    }
    for (int64_t n = 0; n < count && !all; n++) {
      if (!settled_[n]) continue;
      compare_all(n, rows[n].row);
      memset(screened_ + n * words, 0, (size_t)words * sizeof(float));
      norm_[n] = lost_[n] = 0;
    }
    const int64_t empty = groups(count) * kPoints - count;
    memset(screened_ + count * words, 0, (size_t)(empty * words) * sizeof(float));
  }

  static int groups(int64_t count) { return (int)((count + kPoints - 1) / kPoints); }

  // How far a computed score can be from the one that belongs to the float64 distance, for codes within `radius`:
  // rounding of both images, of the dot product, of the bias and of the distance itself.
  template <bool kHalf>
  double window(int64_t n, double radius, double error) const {
    const double x = norm_[n], d = (double)width_, both = x + radius;
    double w = 1.001 * kUnit32 * (d + 6) * (kHalf ? 2 : 1) * radius * (x + 0.5 * radius);
    w += 2 * (d + 16) * kUnit64 * both * both + d * 0x1p-100 * (1 + both) + codes_.tiny;
    if (kHalf) w += lost_[n] * radius + (x + lost_[n]) * error;
    return w;
  }

  double window64(double x, double radius) const {
    const double d = (double)width_, both = x + radius;
    const double screen = 1.001 * kUnit64 * (d + 10) * radius * (x + 0.5 * radius);
    return screen + 2 * (d + 16) * kUnit64 * both * both + d * 1e-300 + codes_.tiny;
  }

  void consider(int64_t n, int64_t k, double& least, int64_t& code) {
    evaluated_++;
    const double found = Shape::distance(codes_, row_[n], unit_[n], (const T*)job_.code_rows + k * width_, k);
    // No branch: which one is nearer can't be predicted.
    const bool better = (found < least) | ((found == least) & (k < code));
    least = better ? found : least;
    code = better ? k : code;
  }

  void consider_slot(int64_t n, int64_t slot, double& least, int64_t& code) {
    const int64_t k = codes_.slots[slot];
    if (k >= 0) consider(n, k, least, code);
  }

  void write(int64_t row, double least, int64_t code) {
    job_.index[row] = code;
    ((T*)job_.distance)[row] = (T)least;
  }

  // Settles a row whose candidates are all considered.
  void finish(int64_t n, int64_t row, double least, int64_t code) {
    for (int64_t i = 0; i < codes_.specials; i++) consider(n, codes_.special[i], least, code);
    // An overflow ties codes that are not candidates.
    if (least - least == 0) {
      write(row, least, code);
    } else {
      compare_all(n, row);
    }
  }

  // The definition itself, for rows and codes at the ends of the number range.
  void compare_all(int64_t n, int64_t row) {
    compared_++;
    const T* x = row_[n];
    bool infinite = false, nan = unit_[n].inverse != unit_[n].inverse;
    for (int64_t d = 0; d < width_; d++) {
      nan |= x[d] != x[d];
      infinite |= x[d] == x[d] && x[d] - x[d] != 0;
    }
    const double none = __builtin_nan("");
    if (nan) return write(row, none, -1);
    if (unit_[n].inverse == 0) return write(row, codes_.first_code < 0 ? none : 1.0, codes_.first_code);
    double least = none;
    int64_t code = -1;
    for (int64_t k = 0; k < codes_.count; k++) {
      const double found = Shape::distance(codes_, x, unit_[n], (const T*)job_.code_rows + k * width_, k);
      if (found < least || (code < 0 && found == found)) {
        least = found;
        code = k;
        if (infinite) break;  // all others are infinitely far too, or nowhere
      }
    }
    write(row, least, code);
  }

  // Whether the best score is good enough where the exact index is not asked for: the contract's bound for vectors
  // as given, not centred.
  bool is_near(int64_t n, double span) const {
    const double lower = 0.999 * norm_[n] - 1.001 * codes_.centre_norm;
    const double x = lower > 0 ? lower : 0, both = x + codes_.norm;
    return !job_.exact && 2.002 * span <= 0x1p-7 * x * codes_.norm + (double)(width_ + 16) * 0x1p-23 * both * both;
  }

  // The screens of search_worker_float32.h: what they can't settle goes to the lists.
  template <bool kHalf>
  void first_pass(const Pending* rows, int64_t count);
  template <bool kHalf>
  void settle(int64_t n, Pending row, double span, Floats::V limit, bool odd, bool spans);
  template <bool kHalf>
  void consider_span(int64_t n, int64_t first, int lane, Floats::V limit, double& least, int64_t& code);
  void threshold32(const Pending* rows, int64_t count);

  // The screen of search_worker_float64.h.
  void threshold64(const Pending* rows, int64_t count);
  void columns64(int64_t slot, int64_t from, int64_t steps, double* bias);
  unsigned above64(const double* x, const double* bias, int64_t from, int64_t steps, const double* limits,
                   double (&score)[kPoints][kPanel64]);
  double odd_limit(const Rising& r, double radius, bool used) const;
  void candidates64(int64_t n, int64_t slot, const double* score, double span, Rising& r);

  // Called after every pass over new rows, and at the end with `all`. What keeps the lists within List::kRoom:
  // afterwards each holds fewer rows than a block of its own screen, and until it is drained again a list gets at
  // most one float block at a time: a first pass adds each of its rows to one list at most, the screens with a
  // threshold add none. The order matters: what the first list hands on is still to be drained from the others.
  void drain(bool all) {
    for (; to_float_.count >= (all ? 1 : block_);) take(to_float_, block_, &Worker::template first_pass<false>);
    for (; to_threshold_.count >= (all ? 1 : block_);) take(to_threshold_, block_, &Worker::threshold32);
    for (; to_double_.count >= (all ? 1 : block64_);) take(to_double_, block64_, &Worker::threshold64);
  }

  void take(List& list, int64_t most, void (Worker::*pass)(const Pending*, int64_t)) {
    Pending rows[kMaxBlock64];
    const int64_t count = list.count < most ? list.count : most;
    list.count -= count;
    memcpy(rows, list.items + list.count, (size_t)count * sizeof(Pending));
    (this->*pass)(rows, count);
  }

  void report() const {
    const int64_t mine[5] = {evaluated_, redone_, threshold_, doubled_, compared_};
    int64_t* all[5] = {&job_.counters->evaluated, &job_.counters->redone, &job_.counters->threshold,
                       &job_.counters->doubled, &job_.counters->compared};
    for (int i = 0; i < 5; i++) __atomic_fetch_add(all[i], mine[i], __ATOMIC_RELAXED);
  }

  struct Tile64 {
    double score[kPoints][kPanel64];
  };

  const Job& job_;
  const Codes& codes_;
  const int64_t width_, ld_, ld64_, block_, block64_;
  float* screened_;
  T* gathered_;
  float* line_;
  Best* best_;
  double *columns_, *strips_;
  Tile64* tiles_;
  List to_float_, to_threshold_, to_double_;
  size_t size_ = 0;
  const T* row_[kMaxBlock64];
  Direction unit_[kMaxBlock64];
  double norm_[kMaxBlock], lost_[kMaxBlock];
  bool settled_[kMaxBlock];
  int64_t half_rows_ = 0, float_rows_ = 0, evaluated_ = 0, redone_ = 0, threshold_ = 0, doubled_ = 0, compared_ = 0;
};

}  // namespace
