// Where the search takes place: the centre of the codes, their scale, and unit vectors for `cosine`.
//
// The frame decides how tight the screens' bounds are, not the result.
#pragma once

#include "search_workspace.cuh"

namespace vtp::cuda {

__device__ __forceinline__ double power_of_two(int exponent) {
  double x = 1.0;
  const double step = exponent < 0 ? 0.5 : 2.0;
  for (int i = exponent < 0 ? -exponent : exponent; i != 0; --i) x *= step;
  return x;
}

// One warp, whose threads all write the same.
__global__ void begin(Workspace space) {
  Meta& meta = *space.meta;
  meta.hard_count = meta.far_count = 0;
  meta.first_zero = meta.first_valid = 0x7FFFFFFF;
  meta.undecided_count = meta.scan_count = 0;
}

// Start of a block of rows; as above.
__global__ void begin_rows(Workspace space) {
  space.meta->undecided_count = space.meta->scan_count = 0;
}

// 256 threads, 32 rows: eight lanes a row.
__global__ void unit_factors(Matrix matrix, int rows, int width, Unit* units) {
  const int mine = static_cast<int>(blockIdx.x * 32 + threadIdx.x / 8);
  const int row = mine < rows ? mine : rows - 1;
  double largest = 0.0;
  for (int d = static_cast<int>(threadIdx.x % 8); d < width; d += 8) {
    largest = fmax(largest, fabs(matrix.at(row, d)));
  }
  for (int lanes = 4; lanes != 0; lanes /= 2) {
    largest = fmax(largest, __shfl_xor_sync(kFullWarp, largest, lanes));
  }
  double scale = 1.0;
  if (matrix.type == Type::f64) scale = largest > 0x1p500 ? 0x1p-600 : largest < 0x1p-500 ? 0x1p600 : 1.0;
  double sum = 0.0;
  for (int d = static_cast<int>(threadIdx.x % 8); d < width; d += 8) {
    const double y = __dmul_rn(matrix.at(row, d), scale);
    sum = __dadd_rn(sum, __dmul_rn(y, y));
  }
  sum = lane_total(sum);
  const double factor = sum == 0.0 ? 0.0 : __ddiv_rn(1.0, __dsqrt_rn(sum));
  if (mine < rows && threadIdx.x % 8 == 0) units[mine] = Unit{scale, factor};
}

// How 256 threads share a partition of the codes: a thread has a column and every `groups`-th code.
struct Share {
  int columns, groups, column, group, first, last, rounds;

  __device__ Share(int width, int codes) : columns(1) {
    while (columns < width && columns < 256) columns *= 2;
    groups = 256 / columns;
    column = static_cast<int>(threadIdx.x) % columns;
    group = static_cast<int>(threadIdx.x) / columns;
    const int share = (codes + static_cast<int>(gridDim.x) - 1) / static_cast<int>(gridDim.x);
    first = static_cast<int>(blockIdx.x) * share;
    last = first + share < codes ? first + share : codes;
    rounds = (width + columns - 1) / columns;
  }
  // Adds up what the groups found for a column; group 0 gets the sum. `scratch` has 256 places.
  template <class T>
  __device__ T total(T mine, T* scratch) const {
    scratch[threadIdx.x] = mine;
    __syncthreads();
    if (group == 0) {
      for (int other = 1; other < groups; ++other) mine += scratch[other * columns + column];
    }
    __syncthreads();
    return mine;
  }
};

// Sum and number of the exponents of each column's entries over one partition; 256 threads.
__global__ void exponents(Problem problem, int codes, int padded_width, Workspace space) {
  VTP_SHARED(memory);
  const Share share(problem.width, codes);
  for (int round = 0; round < share.rounds; ++round) {
    const int d = round * share.columns + share.column;
    int sum = 0, count = 0;
    for (int code = share.first + share.group; d < problem.width && code < share.last; code += share.groups) {
      const double x = problem.codes.at(code, d);
      if (x == 0.0 || !(fabs(x) < 0x1p900)) continue;
      sum += ilogb(x);
      ++count;
    }
    sum = share.total(sum, reinterpret_cast<int*>(memory));
    count = share.total(count, reinterpret_cast<int*>(memory));
    if (share.group == 0 && d < problem.width) {
      space.partial_exponents[static_cast<int64_t>(blockIdx.x) * padded_width + d] = Exponents{sum, count};
    }
  }
}

__device__ __forceinline__ Exponents all_partitions(const Workspace& space, int partitions, int padded_width, int d) {
  Exponents all{0, 0};
  for (int i = 0; i < partitions; ++i) {
    const Exponents part = space.partial_exponents[static_cast<int64_t>(i) * padded_width + d];
    all.sum += part.sum;
    all.count += part.count;
  }
  return all;
}

// Sum of each column over one partition, without entries far above the column's usual size; 256 threads.
__global__ void moments(Problem problem, int codes, int padded_width, Workspace space) {
  VTP_SHARED(memory);
  const Share share(problem.width, codes);
  for (int round = 0; round < share.rounds; ++round) {
    const int d = round * share.columns + share.column;
    double sum = 0.0;
    if (d < problem.width) {
      const Exponents usual = all_partitions(space, static_cast<int>(gridDim.x), padded_width, d);
      const int most = usual.count == 0 ? 0 : static_cast<int>(usual.sum / usual.count) + 11;
      for (int code = share.first + share.group; code < share.last; code += share.groups) {
        const double x = problem.codes.at(code, d);
        if (x != 0.0 && fabs(x) < 0x1p900 && ilogb(x) < most) sum += x;
      }
    }
    sum = share.total(sum, reinterpret_cast<double*>(memory));
    if (share.group == 0 && d < problem.width) {
      space.partial_sums[static_cast<int64_t>(blockIdx.x) * padded_width + d] = sum;
    }
  }
}

// Centre, roots of the weights, scale. One block of 256 threads.
__global__ void centre(Problem problem, int codes, int padded_width, int partitions, Workspace space) {
  VTP_SHARED(memory);
  Exponents* found = reinterpret_cast<Exponents*>(memory);
  double* weights = reinterpret_cast<double*>(memory + 256 * sizeof(Exponents));
  Exponents mine{0, 0};
  double largest = 1.0;
  for (int d = static_cast<int>(threadIdx.x); d < problem.width; d += 256) {
    double sum = 0.0;
    for (int i = 0; i < partitions; ++i) sum += space.partial_sums[static_cast<int64_t>(i) * padded_width + d];
    space.centre[d] = sum / codes;
    const double weight = problem.weight == nullptr ? 1.0 : problem.weight[d];
    space.root[d] = __dsqrt_rn(weight);
    largest = fmax(largest, weight);
    if (weight == 0.0) continue;
    const Exponents column = all_partitions(space, partitions, padded_width, d);
    mine.sum += column.sum + column.count * (ilogb(weight) / 2);
    mine.count += column.count;
  }
  found[threadIdx.x] = mine;
  weights[threadIdx.x] = largest;
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (int i = 1; i < 256; ++i) {
    mine.sum += found[i].sum;
    mine.count += found[i].count;
    largest = fmax(largest, weights[i]);
  }
  const int exponent = mine.count == 0 ? 0 : static_cast<int>(-mine.sum / mine.count);
  const double scale = power_of_two(exponent);
  space.meta->scale = scale;
  space.meta->underflow = static_cast<float>(8.0 * (problem.width + 16) * 0x1p-1022 * scale * scale * largest);
}

}  // namespace vtp::cuda
