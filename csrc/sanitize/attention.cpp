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

#include "attention_reference.h"
#include "attention_task.h"
#include "isa.h"

namespace {

using vtp::AttentionFunctions;
using vtp::AttentionRows;
using vtp::AttentionTask;

constexpr int kThreads = 3;

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
