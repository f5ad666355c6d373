// Nearest-codebook search: what its parts hand each other. Plain data, no torch; every instruction set shares it.
//
// index = lowest k that minimises the float64 distance of vtp_core/ops/nearest_code_distance.py. How it stays
// exact and fast:
//  * Both sides are centred on a vector m near the codes' mean and scaled by a power of two, so that a common
//    offset or a tiny scale costs no precision. Score = x'.c' - |c'|^2 / 2, the larger the nearer.
//  * A screen computes all scores in bfloat16 or float32 and keeps, per SIMD lane, best, second best and the panel
//    of the best. How far a score can be off has a rigorous bound, the window; what is inside it is evaluated in
//    float64 as the definition says. What the lanes can't tell apart is screened again: bfloat16 -> float32 ->
//    float32 with a threshold, or float64 where float32 can't resolve the codes at all.
//  * Equal codes are packed once; codes of unusual norm lie in panels of their own, with a window of their own.
#pragma once
#include <stddef.h>
#include <stdint.h>

namespace vtp::search {

enum class Metric : int32_t { l2, cosine, weighted };
enum class Kind : int32_t { f32, f64, bf16, f16 };

// Rows of a matrix in memory, with any strides, counted in elements.
struct Rows {
  const void* data;
  Kind kind;
  int64_t count, width;
  int64_t stride, step;  // from row to row, from element to element
};

// A codebook ready for one instruction set. Panels hold `lanes` codes side by side: [panel][width][lanes].
struct Codes {
  Metric metric;
  bool wide;               // rows are float64, else float32
  bool usable;             // false: weights or codes that no screen can hold; every row is compared with all codes
  int64_t count, width;    // codes as given
  int32_t lanes;           // codes in a panel
  int64_t panels;          // of which the first `ordinary` hold the codes of ordinary norm
  int64_t ordinary;
  const int32_t* slots;    // [panels * lanes] index of the code, or -1
  const float* panel;      // centred, scaled codes
  const float* bias;       // [panels * lanes] -|c'|^2 / 2, -inf in empty slots
  const uint32_t* half;    // [panels][(width + 1) / 2][lanes] pairs of bfloat16, or null
  const double* radius;    // [panels] upper bound of |c'|
  const double* error;     // [panels] upper bound of |c' - bfloat16(c')|
  double radius_max, error_max;  // over the ordinary panels
  double scale;            // power of two
  double tiny;             // what squares can lose to underflow in a float64 distance, in units of the scores
  double centre_norm;      // |m|, scaled like the codes
  double norm;             // lower bound of the largest norm of the codes before centring, scaled
  const double* centre;    // [width]
  const float* centre32;   // [width, padded with zeros]: the same values where rows are float32 and the metric l2
  const double* factor;    // [width] scale * sqrt(weight), or null
  const double* weight;    // [width], or null
  const double* prescale;  // [count] cosine: the unit vector of c is (c * prescale) * inverse
  const double* inverse;
  const int32_t* special;  // codes that are in no panel and always evaluated
  int64_t specials;
  int64_t first_code;      // lowest code that has a distance from ordinary vectors, or -1
};

// What became of the rows; for tests and tuning.
struct Counters {
  int64_t evaluated;  // float64 distances
  int64_t redone;     // rows that went from bfloat16 to float32
  int64_t threshold;  // rows of the threshold pass in float32
  int64_t doubled;    // rows of the threshold pass in float64
  int64_t compared;   // rows compared with every code
};

struct Job {
  const Codes* codes;
  const void* code_rows;  // [count][width] contiguous float32, or float64 if codes->wide
  Rows rows;
  bool exact;
  int64_t* index;
  void* distance;         // float32, or float64 if codes->wide
  int64_t* next;          // first row that no worker has taken
  int64_t share;          // rows that a worker takes at a time
  Counters* counters;     // or null
};

// What a survey of the codes finds out, before they are packed.
struct Survey {
  Metric metric;
  bool wide;
  int64_t width;
  const void* rows;
  uint64_t* hash;    // [count] of the bytes
  bool* sound;       // [count] whether it has a finite image; zero vectors have none under cosine
  double* prescale;  // [count], cosine
  double* inverse;
  double* square;    // [count] |c'|^2
  const double* centre;
  const double* weight;
};

// One instruction set.
struct Kernel {
  int32_t lanes;
  bool half;
  // Hash, soundness and unit factors of codes [first, last); adds the images of sound ones to sums[width].
  void (*survey)(const Survey&, int64_t first, int64_t last, double* sums);
  void (*squares)(const Survey&, int64_t first, int64_t last);
  // Writes panels [first, last) and their bounds; `scratch` holds pack_scratch(width) bytes.
  void (*pack)(const Codes&, const void* code_rows, float* panel, float* bias, uint32_t* half, double* radius,
               double* error, int64_t first, int64_t last, void* scratch);
  size_t (*pack_scratch)(int64_t width);
  // Takes rows from the job until none is left; `scratch` holds search_scratch(job) bytes, aligned to 64.
  void (*search)(const Job&, void* scratch);
  size_t (*search_scratch)(const Job&);
  int64_t (*block)(int64_t width);  // rows that are screened together
  void (*to_rows)(const Rows&, int64_t first, int64_t last, void* out);  // contiguous float32, float64 from float64
  uint64_t (*checksum)(const void* bytes, size_t count);
};

extern const Kernel kPortable;
#if defined(__x86_64__)
extern const Kernel kAvx2, kAvx512, kAvx512Bf16;
#endif

}  // namespace vtp::search
