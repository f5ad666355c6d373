// One thread's part of a search: screens blocks of rows, evaluates what could be nearest, screens the rest again.
#pragma once

#include "search.h"

namespace {

using vtp::search::Counters;
using vtp::search::Job;

constexpr int64_t kBlockFloats = 65536;    // of a block of screened rows: fits the second-level cache
constexpr int64_t kBlockDoubles = 32768;   // the same memory
constexpr int kSpan = 4;                    // panels that share a note of where a lane's best is from ...
constexpr int64_t kSpanSteps = 8, kSpanPanels = 96;  // ... up to this width (words), from this many panels on
constexpr int64_t kStretch = 128;          // places that the float64 screen takes at a time
constexpr int kMaxBlock = 96, kMaxBlock64 = 768;

VTP_INLINE int64_t clamp_block(int64_t rows, int64_t most) {
  rows = rows / kPoints * kPoints;
  return rows < kPoints ? kPoints : rows > most ? most / kPoints * kPoints : rows;
}

static int64_t block(int64_t width) { return clamp_block(kBlockFloats / padded(width), kMaxBlock); }
VTP_INLINE int64_t padded64(int64_t width) { return (width + 7) / 8 * 8; }
static int64_t block64(int64_t width) { return clamp_block(kBlockDoubles / padded64(width), kMaxBlock64); }

// A row that another pass has to see, with a lower bound of its best true score.
struct Pending {
  int64_t row;
  double low;
};

struct List {
  Pending* items;
  int64_t count;
  void add(Pending row) { items[count++] = row; }
};

// The largest float that is surely not above `v`.
VTP_INLINE float below(double v) {
  const float f = (float)v;
  return f - __builtin_fabsf(f) * 0x1p-22f - 1e-30f;
}

template <class T, Metric M>
class Worker {
  using Shape = Measure<T, M>;

 public:
  Worker(const Job& job, void* scratch) : job_(job), codes_(*job.codes), width_(codes_.width), ld_(padded(width_)), ld64_(padded64(width_)),
                                          block_(block(width_)), block64_(block64(width_)) {
    char* at = (char*)scratch;
    carve(at, screened_, kBlockMemory(width_));
    carve(at, gathered_, in_place<T>(job.rows) ? 0 : (block64_ > block_ ? block64_ : block_) * width_);
    carve(at, line_, padded_pairs(width_));
    carve(at, best_, kMaxBlock);
    carve(at, columns_, kStretch * kPanel64);
    carve(at, strips_, kPanel64 * (kStretch + 8));
    carve(at, tiles_, kMaxBlock64 / kPoints);
    List* const lists[] = {&to_float_, &to_threshold_, &to_double_};
    for (List* list : lists) {
      carve(at, list->items, kMaxBlock64 + kMaxBlock);
      list->count = 0;
    }
    end_ = at;
  }

  static size_t scratch(const Job& job) {
    const Worker measure(job, nullptr);
    return (size_t)(measure.end_ - (char*)nullptr);
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
  static int64_t kBlockMemory(int64_t width) {
    const int64_t singles = block(width) * padded(width), doubles = block64(width) * padded64(width);
    return singles > 2 * doubles ? singles : 2 * doubles;
  }

  template <class U>
  static void carve(char*& at, U*& out, int64_t count) {
    out = (U*)at;
    at += ((size_t)count * sizeof(U) + 63) / 64 * 64;
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
    for (int64_t n = count; n < groups(count) * kPoints; n++) memset(screened_ + n * words, 0, (size_t)words * sizeof(float));
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
    return 1.001 * kUnit64 * (d + 10) * radius * (x + 0.5 * radius) + 2 * (d + 16) * kUnit64 * both * both + d * 1e-300 + codes_.tiny;
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

  template <bool kHalf>
  void first_pass(const Pending* rows, int64_t count) {
    const int64_t steps = kHalf ? (width_ + 1) / 2 : width_, ld = kHalf ? padded_pairs(width_) / 2 : ld_;
    const float* panels = kHalf ? (const float*)codes_.half : codes_.panel;
    prepare<kHalf>(rows, count);
    if (!kHalf) float_rows_ += count;
    for (int64_t n = 0; n < groups(count) * kPoints; n++) {
      for (int j = 0; j < Floats::kLanes; j++) {
        best_[n].best[j] = best_[n].second[j] = best_[n].before[j] = -__builtin_inff();
        best_[n].panel[j] = 0;
      }
    }
    const bool spans = steps <= kSpanSteps && codes_.ordinary >= kSpanPanels;
    (spans ? screen<kHalf, kSpan> : screen<kHalf, 1>)(screened_, ld, groups(count), panels, codes_.bias, steps, 0,
                                                      codes_.ordinary, best_);
    double low[kMaxBlock], span[kMaxBlock];
    float limit[kMaxBlock], most[kMaxBlock];
    bool odd[kMaxBlock] = {false};
    for (int64_t n = 0; n < count; n++) most[n] = Floats::top(Floats::load(best_[n].best));
    for (int64_t n = 0; n < count; n++) {
      span[n] = window<kHalf>(n, codes_.radius_max, codes_.error_max);
      low[n] = most[n] - span[n];
      limit[n] = below(low[n] - span[n]);
    }
    for (int64_t p = codes_.ordinary; p < codes_.panels; p++) {
      for (int g = 0; g < groups(count); g++) {
        float scores[kPoints][Floats::kLanes];
        best_of_panel<kHalf>(screened_ + g * kPoints * ld, ld, panels + p * steps * kPanel, codes_.bias + p * kPanel, steps, scores);
        for (int64_t n = g * kPoints; n < count && n < (g + 1) * kPoints; n++) {
          const Floats::V limit = Floats::set(below(low[n] - window<kHalf>(n, codes_.radius[p], codes_.error[p])));
          odd[n] |= Floats::at_least(Floats::load(scores[n - g * kPoints]), limit) != 0;
        }
      }
    }
    for (int64_t n = 0; n < count; n++) {
      if (!settled_[n]) settle<kHalf>(n, {rows[n].row, low[n]}, span[n], Floats::set(limit[n]), odd[n], spans);
    }
  }

  // Whether the best score is good enough where the exact index is not asked for: the contract's bound for vectors
  // as given, not centred.
  bool is_near(int64_t n, double span) const {
    const double lower = 0.999 * norm_[n] - 1.001 * codes_.centre_norm, x = lower > 0 ? lower : 0, both = x + codes_.norm;
    return !job_.exact && 2.002 * span <= 0x1p-7 * x * codes_.norm + (double)(width_ + 16) * 0x1p-23 * both * both;
  }

  // Evaluates the candidates of a screened row, or hands it on.
  template <bool kHalf>
  void settle(int64_t n, Pending row, double span, Floats::V limit, bool odd, bool spans) {
    const Best& best = best_[n];
    int rivals = __builtin_popcount(Floats::at_least(Floats::load(best.second), limit));
    if (rivals && is_near(n, span)) rivals = 0;
    unsigned lanes = Floats::at_least(Floats::load(best.best), limit);
    if (kHalf && (odd || rivals)) {
      redone_++;
      return to_float_.add(row);
    }
    if (!kHalf && (odd || rivals)) {
      if (rivals > Floats::kLanes / 4) {
        doubled_++;
        return to_double_.add(row);
      }
      threshold_++;
      return to_threshold_.add(row);
    }
    double least = __builtin_inf();
    int64_t code = INT64_MAX;
    for (; lanes; lanes &= lanes - 1) {
      const int lane = __builtin_ctz(lanes);
      const int64_t panel = best.panel[lane];
      if (spans) {
        consider_span<kHalf>(n, panel, lane, limit, least, code);
      } else {
        for (int j = 0; j < Floats::kVectors; j++) consider_slot(n, panel * kPanel + j * Floats::kLanes + lane, least, code);
      }
    }
    finish(n, row.row, least, code);
  }

  // Evaluates the codes of one lane in a span of panels that score high enough.
  template <bool kHalf>
  void consider_span(int64_t n, int64_t first, int lane, Floats::V limit, double& least, int64_t& code) {
    const int64_t steps = kHalf ? (width_ + 1) / 2 : width_, ld = kHalf ? padded_pairs(width_) / 2 : ld_;
    const int64_t last = first + kSpan < codes_.ordinary ? first + kSpan : codes_.ordinary;
    const float *x = screened_ + n * ld, *panels = kHalf ? (const float*)codes_.half : codes_.panel;
    uint64_t own = 0, above[kSpan];
    for (int j = lane; j < kPanel; j += Floats::kLanes) own |= (uint64_t)1 << j;
    for (int64_t p = first; p < last; p++) {
      const float *panel = panels + p * steps * kPanel, *bias = codes_.bias + p * kPanel;
      above[p - first] = own & (steps == 8   ? codes_above<kHalf, 8>(x, panel, bias, steps, limit)
                                : steps == 4 ? codes_above<kHalf, 4>(x, panel, bias, steps, limit)
                                             : codes_above<kHalf, 0>(x, panel, bias, steps, limit));
    }
    for (int64_t p = first; p < last; p++) {
      for (uint64_t rest = above[p - first]; rest; rest &= rest - 1) {
        consider_slot(n, p * kPanel + __builtin_ctzll(rest), least, code);
      }
    }
  }

  // Scores again, with the same arithmetic as the first float32 pass; evaluates every code that can be nearest.
  void threshold32(const Pending* rows, int64_t count) {
    prepare<false>(rows, count);
    double least[kMaxBlock];
    int64_t code[kMaxBlock];
    float ordinary[kMaxBlock + kPoints], limits[kPoints];
    for (int64_t n = 0; n < kMaxBlock; n++) least[n] = __builtin_inf(), code[n] = INT64_MAX;
    for (int64_t n = 0; n < groups(count) * kPoints; n++) {
      ordinary[n] = n < count ? below(rows[n].low - window<false>(n, codes_.radius_max, 0)) : __builtin_inff();
    }
    for (int64_t p = 0; p < codes_.panels; p++) {
      for (int g = 0; g < groups(count); g++) {
        const int64_t first = g * kPoints;
        for (int i = 0; i < kPoints; i++) {
          limits[i] = p < codes_.ordinary || first + i >= count
                          ? ordinary[first + i]
                          : below(rows[first + i].low - window<false>(first + i, codes_.radius[p], 0));
        }
        float scores[kPoints][kPanel];
        unsigned above = scores_above(screened_ + first * ld_, ld_, codes_.panel + p * width_ * kPanel,
                                      codes_.bias + p * kPanel, width_, limits, scores);
        for (; above; above &= above - 1) {
          const int i = __builtin_ctz(above);
          for (int j = 0; j < kPanel; j++) {
            if (scores[i][j] >= limits[i]) consider_slot(first + i, p * kPanel + j, least[first + i], code[first + i]);
          }
        }
      }
    }
    for (int64_t n = 0; n < count; n++) {
      if (!settled_[n]) finish(n, rows[n].row, least[n], code[n]);
    }
  }

  // Columns of codes [slot, slot + kPanel64) over places [from, from + steps): centred float64. Adds to -|c'|^2 / 2.
  void columns64(int64_t slot, int64_t from, int64_t steps, double* bias) {
    Codes part = codes_;
    part.width = steps;
    part.centre += from;
    if (part.factor) part.factor += from;
    const int64_t ld = kStretch + 8;
    for (int j = 0; j < kPanel64; j++) {
      const int64_t k = codes_.slots[slot + j];
      double* strip = strips_ + j * ld;
      if (k < 0) {
        memset(strip, 0, (size_t)steps * sizeof(double));
        bias[j] = -__builtin_inf();
        continue;
      }
      const Direction u = M == Metric::cosine ? Direction{codes_.prescale[k], codes_.inverse[k]} : Direction{1, 1};
      bias[j] -= 0.5 * Shape::centre(part, (const T*)job_.code_rows + k * width_ + from, u, strip, (steps + 7) / 8 * 8);
    }
    for (int64_t d = 0; d < steps; d++) {
      for (int j = 0; j < kPanel64; j++) columns_[d * kPanel64 + j] = strips_[j * ld + d];
    }
  }

  // A float64 screen of blocks, for rows whose nearest codes float32 can't tell apart. Its limits rise while it runs.
  void threshold64(const Pending* rows, int64_t count) {
    Rising rising[kMaxBlock64];
    double limits[kMaxBlock64 + kPoints];
    double* screened = (double*)screened_;
    fetch(rows, count);
    for (int64_t n = 0; n < count; n++) {
      double* out = screened + n * ld64_;
      const double square = Shape::centre(codes_, row_[n], unit_[n], out, ld64_);
      const bool settled = !(square < 1e300) || unit_[n].inverse == 0;
      const double norm = __builtin_sqrt(square) * 1.000001 + 1e-150;
      rising[n] = {norm, window64(norm, codes_.radius_max), rows[n].low, __builtin_inf(), INT64_MAX, settled};
      limits[n] = settled ? __builtin_inf() : lowered(rows[n].low - rising[n].span);
      if (!settled) continue;
      compare_all(n, rows[n].row);
      memset(out, 0, (size_t)ld64_ * sizeof(double));
    }
    for (int64_t n = count; n < groups(count) * kPoints; n++) {
      memset(screened + n * ld64_, 0, (size_t)ld64_ * sizeof(double));
      limits[n] = __builtin_inf();
    }
    for (int64_t slot = 0; slot < codes_.panels * kPanel; slot += kPanel64) {
      double bias[kPanel64] = {0}, own[kPoints];
      for (int64_t from = 0; from < width_; from += kStretch) {
        const int64_t steps = width_ - from < kStretch ? width_ - from : kStretch;
        columns64(slot, from, steps, bias);
        for (int g = 0; g < groups(count); g++) {
          const int64_t first = g * kPoints;
          const double* limit = limits + first;
          if (slot >= codes_.ordinary * kPanel) {
            const double radius = codes_.radius[slot / kPanel];
            for (int i = 0; i < kPoints; i++) own[i] = odd_limit(rising[first + i], radius, first + i < count);
            limit = own;
          }
          unsigned above = above64(screened + first * ld64_ + from, bias, from, steps, limit, tiles_[g].score);
          for (; above; above &= above - 1) {
            const int i = __builtin_ctz(above);
            Rising& r = rising[first + i];
            const double radius = codes_.radius[slot / kPanel];
            candidates64(first + i, slot, tiles_[g].score[i], slot < codes_.ordinary * kPanel ? r.span : window64(r.norm, radius), r);
            limits[first + i] = lowered(r.low - r.span);
          }
        }
      }
    }
    for (int64_t n = 0; n < count; n++) {
      if (!rising[n].settled) finish(n, rows[n].row, rising[n].least, rising[n].code);
    }
  }

  unsigned above64(const double* x, const double* bias, int64_t from, int64_t steps, const double* limits,
                   double (&score)[kPoints][kPanel64]) {
    const bool first = from == 0, last = from + steps == width_;
    if (first && last) return scores64_above<true, true>(x, ld64_, columns_, bias, steps, limits, score);
    if (first) return scores64_above<true, false>(x, ld64_, columns_, bias, steps, limits, score);
    if (last) return scores64_above<false, true>(x, ld64_, columns_, bias, steps, limits, score);
    return scores64_above<false, false>(x, ld64_, columns_, bias, steps, limits, score);
  }

  // A row of the float64 screen: `low` is a lower bound of its best true score so far.
  struct Rising {
    double norm, span, low, least;
    int64_t code;
    bool settled;
  };

  static double lowered(double v) {
    const double slack = 0x1p-48 * (v < 0 ? -v : v);
    return slack < 1e300 ? v - slack : v;
  }

  double odd_limit(const Rising& r, double radius, bool used) const {
    return !used || r.settled ? __builtin_inf() : lowered(r.low - window64(r.norm, radius));
  }

  void candidates64(int64_t n, int64_t slot, const double* score, double span, Rising& r) {
    double top = score[0];
    for (int j = 1; j < kPanel64; j++) top = score[j] > top ? score[j] : top;
    if (top - span > r.low) r.low = top - span;
    const double limit = lowered(r.low - span);
    for (int j = 0; j < kPanel64; j++) {
      if (score[j] >= limit) consider_slot(n, slot + j, r.least, r.code);
    }
  }

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
  char* end_;
  const T* row_[kMaxBlock64];
  Direction unit_[kMaxBlock64];
  double norm_[kMaxBlock], lost_[kMaxBlock];
  bool settled_[kMaxBlock];
  int64_t half_rows_ = 0, float_rows_ = 0, evaluated_ = 0, redone_ = 0, threshold_ = 0, doubled_ = 0, compared_ = 0;
};

template <class T, Metric M>
void search_as(const Job& job, void* scratch) {
  Worker<T, M>(job, scratch).run();
}

template <class T, Metric M>
size_t scratch_as(const Job& job) {
  return Worker<T, M>::scratch(job);
}

static void search_rows(const Job& job, void* scratch) {
  const PlainRounding rounding;
  VTP_SEARCH_DISPATCH(search_as, job.codes->wide, job.codes->metric, job, scratch)
}

static size_t search_scratch(const Job& job) {
  VTP_SEARCH_DISPATCH(scratch_as, job.codes->wide, job.codes->metric, job)
  return 0;
}

}  // namespace
