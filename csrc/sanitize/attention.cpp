// Runs CPU attention without torch, to be compiled with the sanitizers: many shapes and layouts, every buffer of exactly
// its size, threads of its own. Outputs are compared with plain float64 attention, gradients with its differences.
//
//   VTP_CPU_ISA=avx2 ./attention [cases] [seed]
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "attention_task.h"
#include "isa.h"

namespace {

using vtp::AttentionFunctions;
using vtp::AttentionRows;
using vtp::AttentionTask;

constexpr int kThreads = 3;
constexpr float kEps = 1e-5f;

AttentionFunctions functions_for(bool bf16) {
#if defined(__x86_64__)
  switch (vtp::isa()) {
    case vtp::Isa::avx512bf16: return bf16 ? vtp::attention_avx512bf16() : vtp::attention_avx512();
    case vtp::Isa::avx512: return vtp::attention_avx512();
    case vtp::Isa::avx2: return vtp::attention_avx2();
    case vtp::Isa::portable: break;
  }
#endif
  (void)bf16;
  return vtp::attention_portable();
}

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

double dot(const Values& a, const Values& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); i++) sum += a[i] * b[i];
  return sum;
}

// |a - b| relative to |b|; what is not a number is infinitely far.
double distance(const Values& a, const Values& b) {
  double error = 0, size = 0;
  for (size_t i = 0; i < a.size(); i++) error += (a[i] - b[i]) * (a[i] - b[i]), size += b[i] * b[i];
  const double ratio = std::sqrt(error / (size + 1e-30));
  return std::isnan(ratio) ? INFINITY : ratio;
}

struct Failure {
  const char* what = nullptr;
  double error = 0;
};

Failure run(const Case& it, std::mt19937_64& random) {
  std::normal_distribution<double> normal;
  const int64_t tokens = it.tokens(), sequences = static_cast<int64_t>(it.lengths.size()), units = sequences * it.heads;
  const size_t elements = it.elements();
  const auto filled = [&](size_t count, bool bf16) {
    Buffer x(count, bf16);
    for (size_t i = 0; i < count; i++) x.set(i, normal(random));
    return x;
  };
  Buffer q = filled(elements, it.bf16), k = filled(elements, it.bf16), v = filled(elements, it.bf16), grad_out = filled(elements, it.bf16);
  Buffer q_norm = filled(it.width, false), k_norm = filled(it.width, false), grad_lse = filled(tokens * it.heads, false);
  Buffer out(elements, it.bf16), grad_q(elements, it.bf16), grad_k(elements, it.bf16), grad_v(elements, it.bf16);
  Buffer lse(tokens * it.heads, false);
  const int64_t positions = it.packed ? tokens : it.lengths[0] - it.prefix;
  Buffer cosine(it.rope ? positions * it.width : 0, it.bf16), sine(it.rope ? positions * it.width : 0, it.bf16);
  for (size_t i = 0; i < cosine.count; i++) {
    const double angle = normal(random);
    cosine.set(i, std::cos(angle)), sine.set(i, std::sin(angle));
  }

  std::vector<int64_t> starts{0};
  for (const int64_t length : it.lengths) starts.push_back(starts.back() + length);
  AttentionTask task{};
  task.sequences = sequences, task.heads = it.heads, task.width = it.width;
  task.tokens = it.packed ? 0 : it.lengths[0];
  task.starts = it.packed ? starts.data() : nullptr;
  task.bf16 = it.bf16, task.eps = kEps;
  task.scale = static_cast<float>(1 / std::sqrt(static_cast<double>(it.width)));
  task.q = it.rows(q), task.k = it.rows(k), task.v = it.rows(v), task.out = it.rows(out), task.lse = it.statistics(lse);
  if (it.rope) task.rope = {cosine.bytes.get(), sine.bytes.get(), positions, it.bf16};
  if (it.norm) task.q_norm = reinterpret_cast<float*>(q_norm.bytes.get()), task.k_norm = reinterpret_cast<float*>(k_norm.bytes.get());
  task.grad_out = it.rows(grad_out);
  if (it.grad_lse) task.grad_lse = it.statistics(grad_lse);
  task.grad_q = it.rows(grad_q), task.grad_k = it.rows(grad_k), task.grad_v = it.rows(grad_v);
  std::vector<float> parts(it.norm ? units * 2 * it.width : 0);
  task.norm_parts = it.norm ? parts.data() : nullptr;

  const AttentionFunctions functions = functions_for(it.bf16);
  const int64_t longest = *std::max_element(it.lengths.begin(), it.lengths.end());
  const auto each = [&](size_t scratch_bytes, const std::function<void(int64_t, int64_t, void*)>& work) {
    in_parallel(units, [&](int64_t unit) {
      void* scratch = std::aligned_alloc(64, (scratch_bytes + 63) / 64 * 64);
      if (it.lengths[unit / it.heads] > 0) work(unit / it.heads, unit % it.heads, scratch);
      std::free(scratch);
    });
  };
  each(functions.forward_scratch(task, longest), [&](int64_t sequence, int64_t head, void* scratch) {
    const int64_t length = it.lengths[sequence], cut = length / 3;  // two parts, as threads share a long sequence
    if (cut > 0) functions.forward(task, sequence, head, 0, cut, scratch);
    functions.forward(task, sequence, head, cut, length, scratch);
  });
  each(functions.backward_scratch(task, longest),
       [&](int64_t sequence, int64_t head, void* scratch) { functions.backward(task, sequence, head, scratch); });

  Inputs in{values_of(it, q), values_of(it, k), values_of(it, v), Values(it.width), Values(it.width), Values(cosine.count), Values(sine.count)};
  for (int64_t d = 0; d < it.width; d++) in.q_norm[d] = q_norm.get(d), in.k_norm[d] = k_norm.get(d);
  for (size_t i = 0; i < cosine.count; i++) in.cosine[i] = cosine.get(i), in.sine[i] = sine.get(i);
  Values expected, expected_lse, got_lse(lse.count), lse_weight(lse.count);
  reference(it, in, task.scale, expected, expected_lse);
  for (size_t i = 0; i < lse.count; i++) got_lse[i] = lse.get(i), lse_weight[i] = it.grad_lse ? grad_lse.get(i) : 0;
  const double tolerance = it.bf16 ? 3e-2 : 1e-4;
  if (const double error = distance(values_of(it, out), expected); error > tolerance) return {"out", error};
  if (const double error = distance(got_lse, expected_lse); error > tolerance) return {"lse", error};

  // The gradient along one random direction of all inputs, by a central difference.
  const Values out_weight = values_of(it, grad_out);
  Values gradients[5] = {values_of(it, grad_q), values_of(it, grad_k), values_of(it, grad_v), Values(it.width), Values(it.width)};
  for (size_t i = 0; i < parts.size(); i++) gradients[3 + i / it.width % 2][i % it.width] += parts[i];
  Values Inputs::* const members[5] = {&Inputs::q, &Inputs::k, &Inputs::v, &Inputs::q_norm, &Inputs::k_norm};
  constexpr double kStep = 1e-5;
  Inputs ahead = in, behind = in;
  double slope = 0, size = 0;
  for (int m = 0; m < 5; m++) {
    const Values& gradient = gradients[m];
    for (size_t i = 0; i < gradient.size(); i++) {
      const double direction = normal(random);
      (ahead.*members[m])[i] += kStep * direction, (behind.*members[m])[i] -= kStep * direction;
      slope += gradient[i] * direction, size += gradient[i] * gradient[i];
    }
  }
  const auto loss = [&](const Inputs& at) {
    Values value, value_lse;
    reference(it, at, task.scale, value, value_lse);
    return dot(value, out_weight) + dot(value_lse, lse_weight);
  };
  const double difference = (loss(ahead) - loss(behind)) / (2 * kStep);
  const double error = std::fabs(slope - difference) / (std::sqrt(size) + 1e-12);
  return error <= (it.bf16 ? 6e-2 : 1e-3) ? Failure{} : Failure{"gradients", error};
}

}  // namespace

int main(int count, char** words) {
  const int cases = count > 1 ? std::stoi(words[1]) : 100;
  std::mt19937_64 random(count > 2 ? std::stoull(words[2]) : 0);
  constexpr int64_t kWidths[] = {1, 2, 6, 16, 31, 32, 48, 64, 80, 128};
  int wrong = 0;
  for (int i = 0; i < cases; i++) {
    Case it{};
    it.packed = random() % 2, it.bf16 = random() % 2, it.norm = random() % 2, it.grad_lse = random() % 2;
    it.heads = 1 + random() % 3, it.width = kWidths[random() % std::size(kWidths)], it.gap = random() % 3 ? random() % 5 : 0;
    it.rope = random() % 2 && it.width % 2 == 0;
    const int64_t length = 1 + random() % (i % 8 ? 40 : 160);
    it.lengths.assign(1 + random() % 3, length);
    if (it.packed) for (int64_t& one : it.lengths) one = random() % (length + 1);
    if (it.tokens() == 0) it.lengths[0] = length;
    it.prefix = it.packed ? 0 : random() % (length + 1);
    const Failure failure = run(it, random);
    if (failure.what == nullptr) continue;
    wrong++;
    std::printf("case %d: %s is off by %g: packed %d, bf16 %d, norm %d, rope %d, grad_lse %d, heads %d, width %d, gap %d, lengths", i, failure.what,
                failure.error, it.packed, it.bf16, it.norm, it.rope, it.grad_lse, static_cast<int>(it.heads), static_cast<int>(it.width), static_cast<int>(it.gap));
    for (const int64_t one : it.lengths) std::printf(" %d", static_cast<int>(one));
    std::printf("\n");
  }
  std::printf("%s: %d cases, %d wrong\n", vtp::name_of(vtp::isa()), cases, wrong);
  return wrong != 0;
}
