// AVX2 with FMA and F16C: Intel since Haswell, AMD since Zen.
#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <utility>

#include "../numbers.hpp"
#include "kernels.hpp"

namespace yearling {
namespace {

#include "x86.hpp"

// Blocks of rows that keep their sums in 16 registers.
inline constexpr std::size_t kInt4Rows = 6;
inline constexpr std::size_t kInt8Rows = 4;
inline constexpr std::size_t kScoreRows = 6;
inline constexpr std::size_t kValueRows = 3;
inline constexpr std::size_t kValuePairs = 2;

#include "pair.hpp"

// Eight inputs of each of eight columns.
struct Nibbles {
  __m256i low, high;
};
inline Nibbles unpack(Codes x) {
  const __m256i mask = _mm256_set1_epi8(15);
  return {_mm256_and_si256(x, mask), _mm256_and_si256(_mm256_srli_epi16(x, 4), mask)};
}

// Sixteen-bit sums, two lanes per column, hold a whole group: 32 products of at most 15·127 in
// two lanes are at most 30,480.
struct Partial {
  __m256i value;
};
inline void add_products(Partial& sum, Nibbles weights, const std::int8_t* inputs) {
  const auto add = [&](__m256i codes, __m256i four) {
    sum.value = _mm256_add_epi16(sum.value, _mm256_maddubs_epi16(codes, four));
  };
  add(weights.low, four_inputs(inputs));
  add(weights.high, four_inputs(inputs + 4));
}
inline Lanes to_lanes(const Partial& sum) {
  return _mm256_cvtepi32_ps(_mm256_madd_epi16(sum.value, _mm256_set1_epi16(1)));
}

// Thirty-two-bit sums, one lane per column, for products that overflow sixteen bits.
struct Wide {
  __m256i value;
};
inline void add_signed_products(Wide& sum, Codes weights, const std::int8_t* inputs) {
  // maddubs wants one unsigned operand: the weight's sign moves to the input.
  const __m256i magnitude = _mm256_abs_epi8(weights);
  const __m256i pairs =
      _mm256_maddubs_epi16(magnitude, _mm256_sign_epi8(four_inputs(inputs), weights));
  sum.value = _mm256_add_epi32(sum.value, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
inline Lanes to_lanes(const Wide& sum) { return _mm256_cvtepi32_ps(sum.value); }

#include "body.hpp"

}  // namespace

const Kernels& avx2_kernels() {
  static constexpr Kernels kernels = table("avx2");
  return kernels;
}

}  // namespace yearling
