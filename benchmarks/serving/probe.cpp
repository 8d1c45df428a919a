// Prints two limits of the machine: "<streaming read, GB/s> <int8 rate, 10^9 operations/s>".
// The rate is 0 where this file has no instructions for the processor. Best of five tries each:
// a limit is what the machine can do, not what it did while somebody else was busy.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <thread>
#include <vector>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace {

std::atomic<std::uint64_t> sink{0};

// Seconds until every thread has finished `work(thread index)`.
double seconds_of(int threads, const std::function<void(int)>& work) {
  const auto start = std::chrono::steady_clock::now();
  std::vector<std::thread> pool;
  for (int i = 0; i < threads; ++i) pool.emplace_back(work, i);
  for (auto& thread : pool) thread.join();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

double read_gigabytes_per_second(int threads) {
  // Far beyond any cache, so that each pass comes from memory.
  const std::size_t words = (std::size_t{256} << 20) / sizeof(std::uint64_t);
  std::vector<std::uint64_t> memory(words, 1);
  const std::size_t share = words / static_cast<std::size_t>(threads);
  double best = 1e9;
  for (int attempt = 0; attempt < 5; ++attempt) {
    best = std::min(best, seconds_of(threads, [&](int i) {
      const std::uint64_t* from = memory.data() + static_cast<std::size_t>(i) * share;
      std::uint64_t sums[16] = {};
      for (std::size_t at = 0; at + 16 <= share; at += 16)
        for (std::size_t lane = 0; lane < 16; ++lane) sums[lane] += from[at + lane];
      std::uint64_t total = 0;
      for (const auto sum : sums) total += sum;
      sink += total;
    }));
  }
  return static_cast<double>(share * static_cast<std::size_t>(threads) * 8) / best / 1e9;
}

#if defined(__AVX512VNNI__) && defined(__AVX512VL__)
// Unsigned by signed bytes, four at a time into 32 bits.
using Vector = __m512i;
inline Vector add_products(Vector sum, Vector weights, Vector inputs) {
  // Of the intrinsic GCC 12 makes a copy beside each product, and half the rate.
  asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(weights), "v"(inputs));
  return sum;
}
#elif defined(__AVX2__)
// Unsigned by signed bytes, summed in 16 bits: what a 4-bit linear layer does on AVX2.
using Vector = __m256i;
inline Vector add_products(Vector sum, Vector weights, Vector inputs) {
  Vector products = _mm256_maddubs_epi16(weights, inputs);
  asm volatile("" : "+x"(products));  // or one would do for all sums
  return _mm256_add_epi16(sum, products);
}
#endif

#if defined(__AVX2__)
double int8_gigaops_per_second(int threads) {
  constexpr long rounds = 4'000'000;
  constexpr int chains = 12;  // more than are under way at a time
  double best = 1e9;
  for (int attempt = 0; attempt < 5; ++attempt) {
    best = std::min(best, seconds_of(threads, [&](int) {
      Vector weights = Vector{} + 3, inputs = Vector{} + 5, sums[chains];
#pragma GCC unroll 12
      for (int i = 0; i < chains; ++i) sums[i] = Vector{} + i;  // equal ones would be one
      for (long round = 0; round < rounds; ++round) {
        asm volatile("" : "+v"(weights), "+v"(inputs));  // or the products leave the loop
#pragma GCC unroll 12
        for (int i = 0; i < chains; ++i) sums[i] = add_products(sums[i], weights, inputs);
      }
      Vector total = {};
#pragma GCC unroll 12
      for (int i = 0; i < chains; ++i) total += sums[i];
      sink += static_cast<std::uint64_t>(total[0]);
    }));
  }
  return 2.0 * sizeof(Vector) * chains * static_cast<double>(rounds) * threads / best / 1e9;
}
#else
double int8_gigaops_per_second(int) { return 0.0; }
#endif

}  // namespace

int main(int count, char** arguments) {
  const int threads = count > 1 ? std::max(1, std::atoi(arguments[1])) : 1;
  std::printf("%.2f %.1f\n", read_gigabytes_per_second(threads), int8_gigaops_per_second(threads));
  return 0;
}
