// Runs the CPU search without torch, to be compiled with the sanitizers: many shapes, layouts and kinds of data, every
// buffer of exactly its size, threads of its own. Each index is compared with a plain float64 search.
//
//   VTP_CPU_ISA=avx2 ./search [small cases] [large cases] [seed]
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "isa.h"
#include "search.h"
#include "search_cache.h"
#include "search_pack.h"

namespace {

using namespace vtp::search;

constexpr int kThreads = 3;

struct Case {
  Metric metric;
  Kind kind;
  int64_t rows, codes, width;
  int64_t step;  // elements between elements of a row
  int data;      // see `fill`
  bool exact;
  int64_t share;  // rows that a thread takes at a time
  int threads;
};

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

// task(0) ... task(count - 1), on threads whatever the number of tasks.
void in_parallel(int64_t count, const std::function<void(int64_t)>& task) {
  std::atomic<int64_t> next{0};
  const auto work = [&] {
    for (int64_t i = next++; i < count; i = next++) task(i);
  };
  std::vector<std::thread> threads;
  for (int i = 1; i < kThreads; i++) threads.emplace_back(work);
  work();
  for (std::thread& thread : threads) thread.join();
}

size_t item_size(Kind kind) { return kind == Kind::f64 ? 8 : kind == Kind::f32 ? 4 : 2; }

// A float16 by its bits, by the definition of IEEE 754.
double from_half(uint16_t bits) {
  const int exponent = (bits >> 10) & 31, mantissa = bits & 1023;
  const double sign = bits >> 15 ? -1.0 : 1.0;
  if (exponent == 31) return mantissa ? std::nan("") : sign * std::numeric_limits<double>::infinity();
  return sign * (exponent ? std::ldexp(1024 + mantissa, exponent - 25) : std::ldexp(mantissa, -24));
}

// The nearest values below in magnitude: any value will do, as long as both sides read the same.
uint16_t to_half(double x) {
  const uint16_t sign = std::signbit(x) ? 0x8000 : 0;
  if (std::isnan(x)) return 0x7e00;
  const double size = std::fabs(x);
  if (size >= 65504) return sign | (std::isinf(x) ? 0x7c00 : 0x7bff);
  if (size < std::ldexp(1, -14)) return sign | static_cast<uint16_t>(std::ldexp(size, 24));
  int exponent = 0;
  const double mantissa = std::frexp(size, &exponent);  // [0.5, 1)
  return sign | static_cast<uint16_t>((exponent + 14) << 10) | (static_cast<uint16_t>(std::ldexp(mantissa, 11)) & 1023);
}

void write(char* at, Kind kind, double x) {
  const float narrow = static_cast<float>(x);
  uint32_t bits = 0;
  std::memcpy(&bits, &narrow, 4);
  const uint16_t half = to_half(x), brain = std::isnan(x) ? 0x7fc0 : static_cast<uint16_t>(bits >> 16);
  switch (kind) {
    case Kind::f64: std::memcpy(at, &x, 8); break;
    case Kind::f32: std::memcpy(at, &narrow, 4); break;
    case Kind::bf16: std::memcpy(at, &brain, 2); break;
    case Kind::f16: std::memcpy(at, &half, 2); break;
  }
}

double read(const char* at, Kind kind) {
  uint16_t bits = 0;
  float narrow = 0;
  double wide = 0;
  switch (kind) {
    case Kind::f64: std::memcpy(&wide, at, 8); return wide;
    case Kind::f32: std::memcpy(&narrow, at, 4); return narrow;
    case Kind::f16: std::memcpy(&bits, at, 2); return from_half(bits);
    case Kind::bf16: {
      std::memcpy(&bits, at, 2);
      const uint32_t all = static_cast<uint32_t>(bits) << 16;
      std::memcpy(&narrow, &all, 4);
      return narrow;
    }
  }
  return 0;
}

// A row of codes far apart, of which some lie so close to one of two places that float32 can't tell them apart: about
// one in half of the lanes near the first, all of one lane near the second. Few enough rows are near a place that no
// screen is given up for its failures: those of the first place go to the float64 list, those of the second to that of
// the float32 threshold, both through the float32 list if there is a screen in bfloat16.
void blend(std::mt19937_64& random, int data, int64_t i, int64_t width, const std::vector<double>& places,
           const std::vector<double>& codes, double* row) {
  const int64_t lane = codes.empty() ? i % 16 : static_cast<int64_t>(random() % 20);
  const bool is_first = codes.empty() ? lane >= 8 : lane < (data == 9 ? 2 : 6);
  const bool is_second = codes.empty() ? lane == 0 : !is_first && data == 9 && lane < 6;
  // Code 8 is at the first place, code 0 at the second.
  const double* place = codes.empty() ? &places[is_first ? 0 : width] : &codes[is_first ? 8 * width : 0];
  for (int64_t j = 0; j < width; j++) row[j] = is_first || is_second ? place[j] + 1e-5 * row[j] : 10 * row[j];
}

// count x width values of one kind of data; `codes` are what rows may repeat.
std::vector<double> fill(std::mt19937_64& random, int data, int64_t count, int64_t width, const std::vector<double>& codes) {
  std::normal_distribution<double> normal;
  std::vector<double> values(count * width), places(2 * width);
  for (double& value : values) value = normal(random);
  for (double& value : places) value = 10 * normal(random);
  for (int64_t i = 0; i < count; i++) {
    double* row = &values[i * width];
    if (data == 1) for (int64_t j = 0; j < width; j++) row[j] = 10000 + row[j];
    if (data == 2) for (int64_t j = 0; j < width; j++) row[j] = (random() & 1 ? 100 : -100) + 0.1 * row[j];
    if (data == 3 && i % 2) std::copy_n(&values[(random() % i) * width], width, row);
    if (data == 4) for (int64_t j = 0; j < width; j++) row[j] *= std::ldexp(1.0, static_cast<int>(random() % 60) - 30);
    if (data == 5 && random() % 4 == 0) row[random() % width] = std::nan("");
    if (data == 6 && random() % 4 == 0) row[random() % width] = (random() & 1 ? 1 : -1) * std::numeric_limits<double>::infinity();
    if (data == 7) for (int64_t j = 0; j < width; j++) row[j] = std::floor(row[j]);
    if (data == 8) std::fill_n(row, width, 0.0);
    if (data >= 9) blend(random, data, i, width, places, codes, row);
    if (!codes.empty() && data < 9 && random() % 4 == 0) std::copy_n(&codes[(random() % (codes.size() / width)) * width], width, row);
  }
  return values;
}

// Exactly the bytes that the layout spans, and no more.
std::vector<char> store(const std::vector<double>& values, const Case& it, int64_t count, int64_t step) {
  const size_t item = item_size(it.kind);
  std::vector<char> bytes(count == 0 ? 0 : ((count * it.width - 1) * step + 1) * item);
  for (int64_t i = 0; i < count * it.width; i++) write(&bytes[i * step * item], it.kind, values[i]);
  return bytes;
}

bool check(const Case& it, const std::vector<char>& rows, const std::vector<char>& codes, const std::vector<double>& weight,
           int64_t row, int64_t found, double distance) {
  const size_t item = item_size(it.kind);
  double least = std::numeric_limits<double>::infinity(), chosen = std::nan(""), longest = 0, size = 0;
  int64_t first = -1;
  bool number = false;
  for (int64_t k = 0; k < it.codes; k++) {
    double sum = 0, square = 0;
    size = 0;
    for (int64_t j = 0; j < it.width; j++) {
      const double x = read(&rows[(row * it.width + j) * it.step * item], it.kind), c = read(&codes[(k * it.width + j) * item], it.kind);
      const double factor = it.metric == Metric::weighted ? weight[j] : 1.0;
      sum += factor * (x - c) * (x - c), square += factor * c * c, size += factor * x * x;
    }
    longest = std::fmax(longest, std::sqrt(square));
    if (k == found) chosen = sum;
    if (std::isnan(sum)) continue;
    if (!number || sum < least) least = sum, first = k;
    number = true;
  }
  if (!number) return found == -1 && std::isnan(distance);
  if (found < 0 || found >= it.codes || !(distance >= 0)) return false;
  if (std::isinf(least)) return std::isinf(distance);
  // Sums in another order differ by rounding; apart from that, the lowest of the nearest. Float32 rounds once more.
  // What is not exact keeps the bound that `nearest_code` states.
  const double slack = 1e-12 * least + 1e-300, reach = std::sqrt(size) + longest;
  const double loose = it.exact ? 0 : 2 * (0x1p-7 * std::sqrt(size) * longest + (it.width + 16) * 0x1p-23 * reach * reach);
  if (it.exact && found > first && chosen == least) return false;
  const double tolerance = it.kind == Kind::f64 ? 1e-12 * chosen + 1e-300 : 2e-7 * chosen + 1e-45;
  const bool near = std::isinf(distance) ? chosen > 3e38 : std::fabs(distance - chosen) <= tolerance;
  return chosen <= least + slack + loose && near;
}

int64_t run(const Case& it, std::mt19937_64& random, Cache& cache, Counters& counters) {
  const std::vector<double> code_values = fill(random, it.data, it.codes, it.width, {});
  const std::vector<char> codes = store(code_values, it, it.codes, 1);
  const std::vector<char> rows = store(fill(random, it.data, it.rows, it.width, code_values), it, it.rows, it.step);
  std::vector<double> weight(it.width);
  for (double& value : weight) value = static_cast<double>(random() % 8) / 4;
  const bool weighted = it.metric == Metric::weighted, wide = it.kind == Kind::f64;

  const Kernel& chosen = kernel();
  const Rows code_rows{codes.data(), it.kind, it.codes, it.width, it.width, 1};
  const Key key{&chosen, it.metric, it.kind, it.codes, it.width, chosen.checksum(codes.data(), codes.size()), codes.data()};
  std::shared_ptr<Packed> packed = cache.recycle(key);
  packed->build({&chosen, it.metric, code_rows, weighted ? weight.data() : nullptr}, in_parallel);
  cache.keep(key, packed);

  std::vector<int64_t> index(it.rows);
  std::vector<float> narrow(wide ? 0 : it.rows);
  std::vector<double> distance(wide ? it.rows : 0);
  int64_t next = 0;
  const Job job{&packed->codes(), packed->rows(codes.data()),
                Rows{rows.data(), it.kind, it.rows, it.width, it.width * it.step, it.step}, it.exact, index.data(),
                wide ? static_cast<void*>(distance.data()) : narrow.data(), &next, it.share, &counters};
  in_parallel(it.threads, [&](int64_t) {
    Block<char> scratch;
    chosen.search(job, scratch.need(chosen.search_scratch(job)));
  });

  int64_t wrong = 0;
  const int64_t every = it.rows < 1000 ? 1 : 7;  // a search of float64 without optimisation takes its time
  for (int64_t i = 0; i < it.rows && it.metric != Metric::cosine; i += every) {
    wrong += !check(it, rows, codes, weight, i, index[i], wide ? distance[i] : narrow[i]);
  }
  for (int64_t i = 0; i < it.rows; i++) wrong += index[i] < -1 || index[i] >= it.codes;
  return wrong;
}

Case small_case(std::mt19937_64& random, bool many_codes) {
  constexpr int64_t kWidths[] = {1, 2, 3, 7, 8, 16, 31, 32, 33, 64, 100, 257};
  return {static_cast<Metric>(random() % 3),
          static_cast<Kind>(random() % 4),
          static_cast<int64_t>(random() % 90),
          1 + static_cast<int64_t>(random() % (many_codes ? 900 : 70)),
          kWidths[random() % std::size(kWidths)],
          1 + static_cast<int64_t>(random() % 2),
          static_cast<int>(random() % 9),
          random() % 4 != 0,
          1 + static_cast<int64_t>(random() % 40),
          kThreads};
}

// Rows enough to fill the lists of those that another screen has to see, also those of a block in float64. Sixteen in
// turn are of each width, of both kinds of close codes, on one thread and on several.
Case large_case(std::mt19937_64& random, int turn) {
  constexpr int64_t kWidths[] = {8, 20, 100, 257};
  return {turn % 5 == 4 ? Metric::weighted : Metric::l2,
          turn % 8 == 5 ? Kind::f64 : Kind::f32,
          3000 + static_cast<int64_t>(random() % 1000),
          120 + static_cast<int64_t>(random() % 120),
          kWidths[turn / 4 % 4],
          1,
          turn % 8 == 7 ? static_cast<int>(random() % 9) : 9 + turn / 2 % 2,
          turn % 8 != 3,
          1 + static_cast<int64_t>(random() % 1500),
          turn % 2 ? kThreads : 1};
}

}  // namespace

int main(int count, char** words) {
  const int cases = count > 1 ? std::stoi(words[1]) : 200, large = count > 2 ? std::stoi(words[2]) : 16;
  std::mt19937_64 random(count > 3 ? std::stoull(words[3]) : 0);
  Cache cache;
  Counters most{};
  int64_t wrong = 0;
  bool full_block = false;  // of the float64 screen
  for (int i = 0; i < cases + large; i++) {
    const Case it = i < cases ? small_case(random, i % 4 == 0) : large_case(random, i - cases);
    Counters counters{};
    const int64_t here = run(it, random, cache, counters);
    if (here) {
      std::printf("case %d: %lld of %lld rows wrong: metric %d, kind %d, %lld codes, width %lld, data %d, exact %d\n", i,
                  static_cast<long long>(here), static_cast<long long>(it.rows), static_cast<int>(it.metric),
                  static_cast<int>(it.kind), static_cast<long long>(it.codes), static_cast<long long>(it.width), it.data, it.exact);
    }
    wrong += here;
    if (it.threads > 1) continue;  // how many rows one list got is known of one thread
    most.redone = std::max(most.redone, counters.redone);
    most.threshold = std::max(most.threshold, counters.threshold);
    most.doubled = std::max(most.doubled, counters.doubled);
    full_block |= counters.doubled >= std::min<int64_t>(768, 32768 / ((it.width + 7) / 8 * 8));
  }
  // A block of each screen or more, in the list of one thread: see search_pending.h.
  const bool full = most.threshold > 96 && full_block && (most.redone > 96 || !kernel().half);
  std::printf("%s: %d cases, %lld rows wrong; in one list at most %lld rows for float32, %lld with a threshold, %lld "
              "for float64%s\n",
              vtp::name_of(vtp::isa()), cases + large, static_cast<long long>(wrong), static_cast<long long>(most.redone),
              static_cast<long long>(most.threshold), static_cast<long long>(most.doubled),
              full || !large ? "" : ": no list was filled");
  return wrong != 0 || (large && !full);
}
