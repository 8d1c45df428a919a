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

void keep_allowed(std::span<float> logits, std::span<const std::uint32_t> allowed) {
  for (std::size_t word = 0; word < allowed.size(); ++word) {
    if (allowed[word] == ~0u) continue;
    const std::size_t first = word * 32, end = std::min(first + 32, logits.size());
    for (std::size_t id = first; id < end; ++id) {
      if (!(allowed[word] >> (id - first) & 1u)) logits[id] = kForbidden;
    }
  }
}

double log_sum(const Kernels& kernels, std::span<const float> logits, float most,
               SamplingScratch& scratch) {
  scratch.weights.resize(logits.size());
  kernels.exponentials(logits.data(), logits.size(), most, 1.0f, scratch.weights.data());
  double total = 0;
  for (const float weight : scratch.weights) total += weight;
  return static_cast<double>(most) + std::log(total);
}

// The `count` largest values, ties to the lower id, likeliest first.
void report_top(std::span<const float> logits, double log_total, std::size_t count,
                SamplingScratch& scratch, std::int32_t* tokens, float* logprobs) {
  auto& order = scratch.order;
  order.resize(logits.size());
  std::iota(order.begin(), order.end(), 0u);
  std::partial_sort(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(count), order.end(),
                    [&](std::uint32_t a, std::uint32_t b) {
                      return logits[a] != logits[b] ? logits[a] > logits[b] : a < b;
                    });
  for (std::size_t i = 0; i < count; ++i) {
    tokens[i] = static_cast<std::int32_t>(order[i]);
    logprobs[i] = static_cast<float>(logits[order[i]] - log_total);
  }
}

// Zeroes all but the k largest weights, ties to the lower id.
void keep_top_k(std::vector<float>& weights, std::size_t k, SamplingScratch& scratch) {
  if (k == 0 || k >= weights.size()) return;
  scratch.sorted = weights;
  const auto kth = scratch.sorted.begin() + static_cast<std::ptrdiff_t>(k - 1);
  std::nth_element(scratch.sorted.begin(), kth, scratch.sorted.end(), std::greater<>());
  const float threshold = *kth;
  auto room = k - static_cast<std::size_t>(std::count_if(
                      weights.begin(), weights.end(), [&](float w) { return w > threshold; }));
  for (float& weight : weights) {
    if (weight > threshold) continue;
    const bool is_kept = weight == threshold && room > 0;
    room -= is_kept;
    if (!is_kept) weight = 0;
  }
}

// Zeroes all but the smallest set of largest weights whose sum reaches top_p of the whole.
void keep_top_p(std::vector<float>& weights, float top_p, SamplingScratch& scratch) {
  if (top_p >= 1.0f) return;
  const double wanted = static_cast<double>(top_p) *
                        std::accumulate(weights.begin(), weights.end(), 0.0);
  auto& order = scratch.order;
  // The largest weight is 1. Almost always a few tokens hold the mass; sorting the whole
  // vocabulary would take longer than computing its logits.
  for (const float floor : {1e-2f, 1e-4f, 0.0f}) {
    order.clear();
    double held = 0;
    for (std::size_t id = 0; id < weights.size(); ++id) {
      if (weights[id] <= floor) continue;
      order.push_back(static_cast<std::uint32_t>(id));
      held += weights[id];
    }
    if (held >= wanted || floor == 0.0f) break;
  }
  std::sort(order.begin(), order.end(), [&](std::uint32_t a, std::uint32_t b) {
    return weights[a] != weights[b] ? weights[a] > weights[b] : a < b;
  });
  scratch.sorted.assign(weights.size(), 0.0f);
  double held = 0;
  for (const std::uint32_t id : order) {
    scratch.sorted[id] = weights[id];
    held += weights[id];
    if (held >= wanted) break;
  }
  weights.swap(scratch.sorted);
}

std::int32_t draw(const std::vector<float>& weights, double uniform_value) {
  const double total = std::accumulate(weights.begin(), weights.end(), 0.0);
  const double wanted = uniform_value * total;
  double held = 0;
  std::size_t last = 0;
  for (std::size_t id = 0; id < weights.size(); ++id) {
    if (weights[id] == 0) continue;
    held += weights[id];
    last = id;
    if (held > wanted) break;
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
  keep_allowed(logits, choice.allowed);
  if (!is_best && !kernels.arg_max(logits.data(), logits.size(), &best)) {
    return {-1, std::nanf("")};
  }
  if (choice.temperature == 0.0f) return chosen(best);
  auto& weights = scratch.weights;
  weights.resize(logits.size());
  kernels.exponentials(logits.data(), logits.size(), logits[best], 1.0f / choice.temperature,
                       weights.data());
  keep_top_k(weights, choice.top_k, scratch);
  keep_top_p(weights, choice.top_p, scratch);
  for (float& weight : weights) {
    if (weight < choice.min_p) weight = 0;
  }
  return chosen(static_cast<std::size_t>(draw(weights, uniform(choice.seed, choice.output_index))));
}

}  // namespace yearling
