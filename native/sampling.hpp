// Choosing tokens from logits, and scoring tokens by them.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/kernels.hpp"

namespace yearling {

// The meaning of each field is `SamplingParams`' in yearling/serving/request.py.
struct Choice {
  float temperature, top_p, min_p, repetition_penalty, presence_penalty, frequency_penalty;
  std::uint32_t top_k;
  std::uint64_t seed, output_index;
  std::span<const std::int32_t> history;  // prompt and generated tokens, when a penalty is set
  std::size_t num_generated;              // trailing entries of history that were generated
  std::span<const std::int32_t> bias_tokens;
  std::span<const float> bias_values;
  // Bit i % 32 of word i / 32: whether token i may be chosen; empty allows all.
  std::span<const std::uint32_t> allowed;
  int num_logprobs;  // alternatives to report; -1 reports no log-probability
};

struct Chosen {
  std::int32_t token;  // -1: the logits are not finite
  float logprob;       // NaN when none was asked for
};

// Space for one thread's work on a row of logits.
struct SamplingScratch {
  std::vector<float> weights, kept, sums;  // sums of runs of kSumRun weights
  std::vector<std::uint32_t> order, counts;
};

// Chooses a token; `logits` is changed by penalties and bias. `top_tokens` and `top_logprobs`
// receive `num_logprobs` alternatives, likeliest first, of the model's own distribution.
Chosen choose_token(const Kernels& kernels, std::span<float> logits, const Choice& choice,
                    SamplingScratch& scratch, std::int32_t* top_tokens, float* top_logprobs);

// Log-probability of `target`, in nats, and of the `num_logprobs` likeliest tokens.
Chosen score_token(const Kernels& kernels, std::span<const float> logits, std::int32_t target,
                   int num_logprobs, SamplingScratch& scratch, std::int32_t* top_tokens,
                   float* top_logprobs);

// Uniform in [0, 1) with 53 bits: Philox4x32-10 (Salmon et al. 2011) keyed by the seed, at
// counter (index, 0).
double uniform(std::uint64_t seed, std::uint64_t index);

}  // namespace yearling
