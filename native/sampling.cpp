#include "sampling.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

namespace yearling {
namespace {

// Tells whether it changed anything.
bool apply_penalties(std::span<float> logits, const Choice& choice, SamplingScratch& scratch) {
  const bool repeats = choice.repetition_penalty != 1.0f;
  const bool counts_matter = choice.presence_penalty != 0.0f || choice.frequency_penalty != 0.0f;
  if (!repeats && !counts_matter) return false;
  auto& counts = scratch.counts;  // all zero between calls
  counts.resize(logits.size(), 0);
  const std::size_t prompt = choice.history.size() - choice.num_generated;
  constexpr std::uint32_t kInPrompt = 1u << 31;
  for (std::size_t i = 0; i < choice.history.size(); ++i) {
    auto& count = counts[static_cast<std::size_t>(choice.history[i])];
    count = i < prompt ? count | kInPrompt : count + 1;
  }
  for (const std::int32_t token : choice.history) {
    const auto id = static_cast<std::size_t>(token);
    if (counts[id] == 0) continue;  // handled at an earlier occurrence
    const std::uint32_t generated = counts[id] & ~kInPrompt;
    float& logit = logits[id];
    if (repeats) {
      logit = logit > 0 ? logit / choice.repetition_penalty : logit * choice.repetition_penalty;
    }
    if (generated) {
      logit -= choice.presence_penalty +
               choice.frequency_penalty * static_cast<float>(generated);
    }
    counts[id] = 0;
  }
  return true;
}

// Far below any logit, and finite, so that sums and maxima stay so.
constexpr float kForbidden = -1e30f;

std::size_t runs_of(std::size_t count) { return (count + kSumRun - 1) / kSumRun; }

// Of two ids the one of the larger weight, ties to the lower.
struct Likelier {
  const std::vector<float>& weights;
  bool operator()(std::uint32_t a, std::uint32_t b) const {
    return weights[a] != weights[b] ? weights[a] > weights[b] : a < b;
  }
};

double total_of(std::span<const float> sums) {
  return std::accumulate(sums.begin(), sums.end(), 0.0);
}

// Weights exp((logit - most) · factor), and the sums of their runs.
void weigh(const Kernels& kernels, std::span<const float> logits, float most, float factor,
           SamplingScratch& scratch) {
  scratch.weights.resize(logits.size());
  scratch.sums.resize(runs_of(logits.size()));
  kernels.exponentials(logits.data(), logits.size(), most, factor, scratch.weights.data());
  kernels.sum_runs(scratch.weights.data(), logits.size(), scratch.sums.data());
}

double log_sum(const Kernels& kernels, std::span<const float> logits, float most,
               SamplingScratch& scratch) {
  weigh(kernels, logits, most, 1.0f, scratch);
  return static_cast<double>(most) + std::log(total_of(scratch.sums));
}

// The largest weight is 1, and almost always a few tokens hold nearly all: what is looked for is
// looked for among those above a floor first.
constexpr float kFloors[] = {1e-2f, 1e-4f, -1.0f};

// order = ids of weights above a floor, rising; returns their sum.
double collect_above(float floor, SamplingScratch& scratch) {
  const auto& weights = scratch.weights;
  scratch.order.clear();
  double held = 0;
  for (std::size_t run = 0; run < scratch.sums.size(); ++run) {
    if (scratch.sums[run] < 0.999f * floor) continue;  // then so is each of its weights
    const std::size_t end = std::min(weights.size(), (run + 1) * kSumRun);
    for (std::size_t id = run * kSumRun; id < end; ++id) {
      if (weights[id] <= floor) continue;
      scratch.order.push_back(static_cast<std::uint32_t>(id));
      held += weights[id];
    }
  }
  return held;
}

// The `count` largest logits, ties to the lower id, likeliest first; after log_sum.
void report_top(std::span<const float> logits, double log_total, std::size_t count,
                SamplingScratch& scratch, std::int32_t* tokens, float* logprobs) {
  if (count == 0) return;
  auto& order = scratch.order;
  for (const float floor : kFloors) {
    collect_above(floor, scratch);
    if (order.size() < count) continue;
    std::partial_sort(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(count),
                      order.end(), [&](std::uint32_t a, std::uint32_t b) {
                        return logits[a] != logits[b] ? logits[a] > logits[b] : a < b;
                      });
    // Weights are rounded: one at the floor may belong to a logit above that of another.
    if (scratch.weights[order[count - 1]] > 1.001f * floor) break;
  }
  for (std::size_t i = 0; i < count; ++i) {
    tokens[i] = static_cast<std::int32_t>(order[i]);
    logprobs[i] = static_cast<float>(logits[order[i]] - log_total);
  }
}

// Zeroes all weights but those of the first `count` ids of `order`.
void keep_first(const Kernels& kernels, std::size_t count, SamplingScratch& scratch) {
  auto& [weights, kept, sums, order, _] = scratch;
  kept.assign(weights.size(), 0.0f);
  for (std::size_t i = 0; i < count; ++i) kept[order[i]] = weights[order[i]];
  weights.swap(kept);
  kernels.sum_runs(weights.data(), weights.size(), sums.data());
}

// Zeroes all but the k largest weights, ties to the lower id.
void keep_top_k(const Kernels& kernels, std::size_t k, SamplingScratch& scratch) {
  const auto& weights = scratch.weights;
  if (k == 0 || k >= weights.size()) return;
  auto& order = scratch.order;
  for (const float floor : kFloors) {
    collect_above(floor, scratch);
    if (order.size() >= k) break;
  }
  std::nth_element(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(k - 1), order.end(),
                   Likelier{weights});
  keep_first(kernels, k, scratch);
}

// Zeroes all but the smallest set of largest weights whose sum reaches top_p of the whole.
void keep_top_p(const Kernels& kernels, float top_p, SamplingScratch& scratch) {
  if (top_p >= 1.0f) return;
  const auto& weights = scratch.weights;
  const double wanted = static_cast<double>(top_p) * total_of(scratch.sums);
  auto& order = scratch.order;
  for (const float floor : kFloors) {
    if (collect_above(floor, scratch) >= wanted) break;
  }
  // The set ends within [begin, end): each turn orders half of it, and tells which half.
  std::size_t begin = 0, end = order.size();
  double held = 0;
  while (end - begin > 1) {
    const std::size_t middle = begin + (end - begin) / 2;
    const auto at = [&](std::size_t i) { return order.begin() + static_cast<std::ptrdiff_t>(i); };
    std::nth_element(at(begin), at(middle), at(end), Likelier{weights});
    double half = 0;
    for (std::size_t i = begin; i < middle; ++i) half += weights[order[i]];
    if (held + half >= wanted) {
      end = middle;
    } else {
      held += half;
      begin = middle;
    }
  }
  keep_first(kernels, end, scratch);
}

void keep_min_p(const Kernels& kernels, float min_p, SamplingScratch& scratch) {
  if (min_p == 0.0f) return;
  for (float& weight : scratch.weights) {
    if (weight < min_p) weight = 0;
  }
  kernels.sum_runs(scratch.weights.data(), scratch.weights.size(), scratch.sums.data());
}

// The first id up to which the weights hold more than a share of their sum.
std::int32_t draw(const SamplingScratch& scratch, double share) {
  const double wanted = share * total_of(scratch.sums);
  std::size_t run = 0;
  double before = 0, held = 0;
  for (std::size_t i = 0; i < scratch.sums.size() && held <= wanted; ++i) {
    if (scratch.sums[i] == 0) continue;
    run = i;
    before = held;
    held += scratch.sums[i];
  }
  const std::size_t end = std::min(scratch.weights.size(), (run + 1) * kSumRun);
  std::size_t last = 0;
  for (std::size_t id = run * kSumRun; id < end && before <= wanted; ++id) {
    if (scratch.weights[id] == 0) continue;
    last = id;
    before += scratch.weights[id];
  }
  return static_cast<std::int32_t>(last);
}

}  // namespace

double uniform(std::uint64_t seed, std::uint64_t index) {
  std::uint32_t counter[4] = {static_cast<std::uint32_t>(index),
                              static_cast<std::uint32_t>(index >> 32), 0, 0};
  std::uint32_t key[2] = {static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)};
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t a = 0xD2511F53ull * counter[0], b = 0xCD9E8D57ull * counter[2];
    const std::uint32_t next[4] = {
        static_cast<std::uint32_t>(b >> 32) ^ counter[1] ^ key[0], static_cast<std::uint32_t>(b),
        static_cast<std::uint32_t>(a >> 32) ^ counter[3] ^ key[1], static_cast<std::uint32_t>(a)};
    std::copy(next, next + 4, counter);
    key[0] += 0x9E3779B9u;
    key[1] += 0xBB67AE85u;
  }
  const std::uint64_t bits = (static_cast<std::uint64_t>(counter[0]) << 32 | counter[1]) >> 11;
  return static_cast<double>(bits) * 0x1p-53;
}

Chosen score_token(const Kernels& kernels, std::span<const float> logits, std::int32_t target,
                   int num_logprobs, SamplingScratch& scratch, std::int32_t* top_tokens,
                   float* top_logprobs) {
  std::size_t best;
  if (!kernels.arg_max(logits.data(), logits.size(), &best)) return {-1, std::nanf("")};
  const double log_total = log_sum(kernels, logits, logits[best], scratch);
  report_top(logits, log_total, static_cast<std::size_t>(std::max(0, num_logprobs)), scratch,
             top_tokens, top_logprobs);
  const float logit = logits[static_cast<std::size_t>(target)];
  return {target, static_cast<float>(logit - log_total)};
}

Chosen choose_token(const Kernels& kernels, std::span<float> logits, const Choice& choice,
                    SamplingScratch& scratch, std::int32_t* top_tokens, float* top_logprobs) {
  std::size_t best;
  if (!kernels.arg_max(logits.data(), logits.size(), &best)) return {-1, std::nanf("")};
  double log_total = 0;
  const bool wants_logprobs = choice.num_logprobs >= 0;
  std::vector<float> own;  // the model's own logits, before penalties and bias
  if (wants_logprobs) {
    log_total = log_sum(kernels, logits, logits[best], scratch);
    report_top(logits, log_total, static_cast<std::size_t>(choice.num_logprobs), scratch,
               top_tokens, top_logprobs);
    own.assign(logits.begin(), logits.end());
  }
  const auto chosen = [&](std::size_t token) {
    const float logprob = wants_logprobs ? static_cast<float>(own[token] - log_total)
                                         : std::nanf("");
    return Chosen{static_cast<std::int32_t>(token), logprob};
  };
  bool is_best = !apply_penalties(logits, choice, scratch) && choice.allowed.empty();
  for (std::size_t i = 0; i < choice.bias_tokens.size(); ++i) {
    const auto token = static_cast<std::size_t>(choice.bias_tokens[i]);
    logits[token] += choice.bias_values[i];
    // Below the best it stays below, whatever else is lowered; a tie or a NaN looks again.
    is_best = is_best && token != best && logits[token] < logits[best];
  }
  if (!choice.allowed.empty()) {
    kernels.keep_marked(logits.data(), logits.size(), choice.allowed.data(), kForbidden);
  }
  if (!is_best && !kernels.arg_max(logits.data(), logits.size(), &best)) {
    return {-1, std::nanf("")};
  }
  if (choice.temperature == 0.0f) return chosen(best);
  weigh(kernels, logits, logits[best], 1.0f / choice.temperature, scratch);
  keep_top_k(kernels, choice.top_k, scratch);
  keep_top_p(kernels, choice.top_p, scratch);
  keep_min_p(kernels, choice.min_p, scratch);
  return chosen(static_cast<std::size_t>(draw(scratch, uniform(choice.seed, choice.output_index))));
}

}  // namespace yearling
