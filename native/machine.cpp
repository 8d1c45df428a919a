#include "machine.hpp"

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "program.hpp"

namespace yearling {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// Sums every word, so that no read can be left out.
std::uint64_t sum_words(const std::byte* data, std::size_t bytes) {
  std::uint64_t sums[8] = {};
  for (std::size_t at = 0; at + 64 <= bytes; at += 64) {
    std::uint64_t words[8];
    std::memcpy(words, data + at, 64);
    for (std::size_t i = 0; i < 8; ++i) sums[i] += words[i];
  }
  std::uint64_t total = 0;
  for (const auto sum : sums) total += sum;
  return total;
}

double measure_bandwidth(Pool& pool) {
  constexpr std::size_t kBytes = 256 << 20, kChunk = 1 << 20;  // well beyond any cache
  LazyMemory memory(kBytes);
  std::memset(memory.data(), 1, kBytes);
  double best = 0;
  for (int repeat = 0; repeat < 5; ++repeat) {
    std::atomic<std::uint64_t> total{0};
    const auto start = Clock::now();
    pool.parallel_for(kBytes / kChunk, [&](std::size_t chunk) {
      total += sum_words(memory.data() + chunk * kChunk, kChunk);
    });
    const double seconds = seconds_since(start);
    if (total != 0) best = std::max(best, kBytes / seconds);
  }
  return best;
}

// A matrix small enough for the first-level cache, passed over by many rows: what is left is
// arithmetic.
double measure_int8(Pool& pool) {
  constexpr std::size_t kInputs = 512, kOutputs = 32, kRows = 24, kPasses = 400;
  const Kernels& kernels = select_kernels("auto");
  Linear weights(WeightKind::int4, kOutputs, kInputs);
  const std::vector<float> values(kInputs * kOutputs, 0.5f);
  weights.pack(0, kOutputs, "F32", reinterpret_cast<const std::byte*>(values.data()),
               values.size() * sizeof(float));
  const auto chunks = static_cast<std::size_t>(pool.threads()) * 8;
  double best = 0;
  for (int repeat = 0; repeat < 3; ++repeat) {
    const auto start = Clock::now();
    pool.parallel_for(chunks, [&](std::size_t) {
      std::vector<std::int8_t> codes(kRows * kInputs, 3);
      std::vector<float> scales(kRows * kInputs / kGroup, 1.0f), out(kRows * kOutputs);
      std::vector<Outlier> outliers(kRows * kInputs / kGroup);
      std::vector<std::uint32_t> num_outliers(kRows, 0);
      const QuantizedRows in{codes.data(),    scales.data(),       scales.data(),
                             outliers.data(), num_outliers.data(), kInputs / kGroup};
      const LinearOutput to{out.data(), kOutputs, nullptr, true};
      for (std::size_t pass = 0; pass < kPasses; ++pass) {
        kernels.linear_quantized(weights, {0, weights.tiles()}, in, {0, kRows}, to);
      }
    });
    const double macs = static_cast<double>(chunks * kPasses * kRows * kInputs * kOutputs);
    best = std::max(best, macs / seconds_since(start));
  }
  return best;
}

}  // namespace

MachineRates measure_machine(Pool& pool) {
  return {measure_bandwidth(pool), measure_int8(pool)};
}

}  // namespace yearling
