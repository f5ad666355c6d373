// Cases of attention in memory and, for their results, plain attention in float64.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

#include "attention_task.h"

namespace {

using vtp::AttentionRows;

constexpr float kEps = 1e-5f;

// Values in memory as float32 or bfloat16, exactly as many bytes as the layout spans.
struct Buffer {
  bool bf16 = false;
  std::unique_ptr<char[]> bytes;
  size_t count = 0;

  Buffer() = default;
  Buffer(size_t elements, bool half) : bf16(half), bytes(new char[elements * (half ? 2 : 4)]), count(elements) {
    std::memset(bytes.get(), 0xff, elements * (half ? 2 : 4));  // NaN: what is not written shows
  }
  void set(size_t i, double x) {
    const float value = static_cast<float>(x);
    uint32_t bits = 0;
    std::memcpy(&bits, &value, 4);
    const uint16_t half = static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
    if (bf16) std::memcpy(&bytes[2 * i], &half, 2);
    else std::memcpy(&bytes[4 * i], &value, 4);
  }
  double get(size_t i) const {
    uint16_t half = 0;
    uint32_t bits = 0;
    float value = 0;
    if (bf16) std::memcpy(&half, &bytes[2 * i], 2), bits = static_cast<uint32_t>(half) << 16;
    else std::memcpy(&bits, &bytes[4 * i], 4);
    std::memcpy(&value, &bits, 4);
    return value;
  }
};

struct Case {
  std::vector<int64_t> lengths;  // of the sequences; dense if `packed` is false: all the same
  bool packed, bf16, norm, rope, grad_lse;
  int64_t heads, width, prefix, gap;  // gap: elements between rows

  int64_t tokens() const {
    int64_t sum = 0;
    for (const int64_t length : lengths) sum += length;
    return sum;
  }
  int64_t row() const { return width + gap; }
  // Element at which the row of a token (counted over all sequences) and head begins.
  size_t at(int64_t token, int64_t head) const { return (token * heads + head) * row(); }
  size_t elements() const { return tokens() ? at(tokens() - 1, heads - 1) + width : 0; }
  // Place of a statistic.
  size_t statistic(int64_t sequence, int64_t head, int64_t local, int64_t token) const {
    return packed ? head * tokens() + token : (sequence * heads + head) * lengths[0] + local;
  }
  AttentionRows rows(Buffer& x) const {
    const int64_t item = x.bf16 ? 2 : 4, token = heads * row() * item;
    return {x.bytes.get(), packed ? 0 : lengths[0] * token, row() * item, token};
  }
  AttentionRows statistics(Buffer& x) const {
    char* data = x.bytes.get();
    if (packed) return {data, 0, tokens() * 4, 4};
    return {data, heads * lengths[0] * 4, lengths[0] * 4, 4};
  }
};

using Values = std::vector<double>;  // [token][head][width]

Values values_of(const Case& it, const Buffer& x) {
  Values values(it.tokens() * it.heads * it.width);
  for (int64_t i = 0; i < it.tokens() * it.heads; i++) {
    for (int64_t d = 0; d < it.width; d++) values[i * it.width + d] = x.get(it.at(i / it.heads, i % it.heads) + d);
  }
  return values;
}

struct Inputs {
  Values q, k, v, q_norm, k_norm, cosine, sine;
};

// Norm and rotation of one row.
Values prepared(const Case& it, const double* x, const Values& norm, const Inputs& in, int64_t position) {
  Values y(x, x + it.width);
  if (it.norm) {
    double square = 0;
    for (const double value : y) square += value * value;
    const double factor = 1 / std::sqrt(square / it.width + kEps);
    for (int64_t d = 0; d < it.width; d++) y[d] *= factor * norm[d];
  }
  if (!it.rope || position < 0) return y;
  Values z = y;
  const int64_t half = it.width / 2;
  for (int64_t d = 0; d < it.width; d++) {
    const double other = d < half ? -y[d + half] : y[d - half];
    z[d] = y[d] * in.cosine[position * it.width + d] + other * in.sine[position * it.width + d];
  }
  return z;
}

// Plain attention; `out` like q, `lse` by Case::statistic.
void reference(const Case& it, const Inputs& in, double scale, Values& out, Values& lse) {
  out.assign(in.q.size(), 0);
  lse.assign(it.tokens() * it.heads, 0);
  int64_t start = 0;
  for (size_t sequence = 0; sequence < it.lengths.size(); start += it.lengths[sequence++]) {
    const int64_t length = it.lengths[sequence];
    for (int64_t head = 0; head < it.heads; head++) {
      std::vector<Values> queries, keys;
      for (int64_t i = 0; i < length; i++) {
        const size_t row = ((start + i) * it.heads + head) * it.width;
        const int64_t position = it.packed ? start + i : i - it.prefix;
        queries.push_back(prepared(it, &in.q[row], in.q_norm, in, position));
        keys.push_back(prepared(it, &in.k[row], in.k_norm, in, position));
      }
      for (int64_t i = 0; i < length; i++) {
        Values scores(length);
        for (int64_t j = 0; j < length; j++) {
          for (int64_t d = 0; d < it.width; d++) scores[j] += scale * queries[i][d] * keys[j][d];
        }
        const double most = *std::max_element(scores.begin(), scores.end());
        double sum = 0;
        for (double& score : scores) sum += score = std::exp(score - most);
        lse[it.statistic(sequence, head, i, start + i)] = most + std::log(sum);
        for (int64_t j = 0; j < length; j++) {
          const size_t row = ((start + j) * it.heads + head) * it.width;
          for (int64_t d = 0; d < it.width; d++) out[((start + i) * it.heads + head) * it.width + d] += scores[j] / sum * in.v[row + d];
        }
      }
    }
  }
}

}  // namespace
