// The memory of a search besides its inputs and outputs, in one block.
#pragma once

#include "search_problem.cuh"

namespace vtp::cuda {

constexpr int kPanel = 64;        // codes that share bounds
constexpr int kListed = 32;       // candidates of a row and split
constexpr int kHard = 64;         // codes outside of the screens' range that are evaluated for every row; with more
                                  // of them, every row is scanned
constexpr int kFar = 32;          // codes of unusual norm that are evaluated for every row, so as not to widen the
                                  // bounds of their panels; further ones stay in them
constexpr int kPartitions = 128;  // of the codebook, for its moments
constexpr int kPadCodes = 128, kPadRows = 256;

// What bounds the rounding of a panel's scores: the largest of its codes.
struct alignas(16) Panel {
  float norm;      // of the rounded codes
  float residual;  // of what the rounding took
  float bias;      // |score of the zero vector|
  float slack;     // rounding of the bias
};

// The same for a row: of its rounded vector and of what the rounding took.
struct alignas(16) RowBound {
  float norm_bf16, residual_bf16, norm_float, residual_float;
};

struct Candidate {
  int code;
  float upper;  // its score is not above this
};

enum Kind : int { kScreened = 0, kScan = 1, kDirectionless = 1 << 20, kVoid = 1 << 21 };

struct Meta {
  double scale;     // power of two that brings the codes' entries near 1
  float underflow;  // what float64's own underflow can hide, in scores
  int hard_count, far_count, first_zero, first_valid;
  int undecided_count, scan_count;
  int hard[kHard], far[kFar];
};

// Sum and number of the exponents of some entries: their mean tells the entries' usual size.
struct alignas(16) Exponents {
  long long sum, count;
};

struct Workspace {
  Meta* meta;
  Unit *code_units, *row_units;
  double *partial_sums, *centre, *root;
  Exponents* partial_exponents;
  Bf16* codes_bf16;  // (padded codes, padded width)
  float* bias;
  Panel *panels_bf16, *panels_float;
  Bf16* rows_bf16;
  RowBound* bounds;
  int *kind, *undecided, *undecided_list, *scan_list;
  float* low;  // (rows, splits): some code of the split scores at least this
  int* counts;
  Candidate* candidates;  // (splits, rows, kListed)
  Nearest* scanned;       // (rows, scan splits)
};

// Element d of a row, centred, weighted and scaled.
__device__ __forceinline__ double framed(const Workspace& space, const Side& side, int64_t row, int d, double scale) {
  return (side.at(row, d) - space.centre[d]) * space.root[d] * scale;
}

// Sizes that the launches and the memory depend on.
struct Plan {
  int codes, padded_codes, width, padded_width, chunk, splits, scan_splits;
};

inline int round_up(int64_t n, int to) { return static_cast<int>((n + to - 1) / to * to); }

// `processors` is the number of multiprocessors: how many blocks are worth having.
inline Plan make_plan(int64_t rows, int codes, int width, int processors) {
  Plan plan{};
  plan.codes = codes;
  plan.padded_codes = round_up(codes, kPadCodes);
  plan.width = width;
  plan.padded_width = width <= 16 ? 16 : width <= 32 ? 32 : round_up(width, 64);
  // Rows at a time: at most 64 MB of rounded vectors, and of candidates.
  int64_t most = (int64_t{32} << 20) / plan.padded_width;
  most = most < 1 << 16 ? most : 1 << 16;
  plan.chunk = round_up(rows < 1 ? 1 : rows < most ? rows : most, kPadRows);
  const int tiles = plan.chunk / kPadRows, pairs = plan.padded_codes / kPadCodes;
  int splits = (2 * processors + tiles - 1) / tiles;
  splits = splits < 16 ? splits : 16;
  plan.splits = splits < pairs ? splits : pairs;
  plan.scan_splits = plan.splits < 8 ? plan.splits : 8;
  return plan;
}

// Lays the workspace out from `base`; returns its bytes. With a null base only the bytes count.
inline size_t lay_out(const Plan& plan, bool cosine, void* base, Workspace& space) {
  size_t used = 0;
  auto place = [&](auto*& pointer, size_t count) {
    pointer = reinterpret_cast<std::remove_reference_t<decltype(pointer)>>(static_cast<char*>(base) + used);
    used += (count * sizeof(*pointer) + 255) / 256 * 256;
  };
  const size_t codes = plan.padded_codes, width = plan.padded_width, rows = plan.chunk;
  place(space.meta, 1);
  place(space.code_units, cosine ? codes : 0);
  place(space.row_units, cosine ? rows : 0);
  place(space.partial_sums, kPartitions * width);
  place(space.partial_exponents, kPartitions * width);
  place(space.centre, width);
  place(space.root, width);
  place(space.codes_bf16, codes * width);
  place(space.bias, codes);
  place(space.panels_bf16, codes / kPanel);
  place(space.panels_float, codes / kPanel);
  place(space.rows_bf16, rows * width);
  place(space.bounds, rows);
  place(space.kind, rows);
  place(space.undecided, rows);
  place(space.undecided_list, rows);
  place(space.scan_list, rows);
  place(space.low, rows * plan.splits);
  place(space.counts, rows * plan.splits);
  place(space.candidates, rows * plan.splits * kListed);
  place(space.scanned, rows * plan.scan_splits);
  return used;
}

}  // namespace vtp::cuda
