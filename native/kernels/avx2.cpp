// AVX2 with FMA and F16C: Intel since Haswell, AMD since Zen.
#include <immintrin.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <type_traits>
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

inline __m256i four_inputs(const std::int8_t* codes) {
  std::int32_t four;
  std::memcpy(&four, codes, sizeof four);
  return _mm256_set1_epi32(four);
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
// Eight integers, one per column.
struct Columns {
  __m256i value;
};
inline Columns operator+(Columns a, Columns b) { return {_mm256_add_epi32(a.value, b.value)}; }
inline Lanes to_lanes(Columns x) { return _mm256_cvtepi32_ps(x.value); }
inline Columns to_columns(const Partial& sum) {
  return {_mm256_madd_epi16(sum.value, _mm256_set1_epi16(1))};
}
// What sum and start_of make together, times a pair of factors.
inline void add_weighted(Columns& total, Columns sum, std::int32_t start,
                         const Int4Factors* factors) {
  const __m256i halves = _mm256_xor_si256(_mm256_add_epi32(sum.value, _mm256_set1_epi32(start)),
                                          _mm256_set1_epi32(kStartTooMuch));
  total.value = _mm256_add_epi32(total.value, _mm256_madd_epi16(halves, load_codes(factors)));
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
inline Columns to_columns(const Wide& sum) { return {sum.value}; }

// codes[i] = round(group[i] · inverse), to nearest even, and the same in 8 bits; tells which do
// not fit them.
inline std::uint32_t round_codes(const float* group, float inverse, std::int16_t* codes,
                                 std::int8_t* low, std::int32_t& sum) {
  __m256i rounded[4];
  for (std::size_t i = 0; i < 4; ++i) {
    rounded[i] = _mm256_cvtps_epi32(load(group + i * kLanes) * broadcast(inverse));
  }
  alignas(32) std::uint32_t lanes[kLanes];
  _mm256_store_si256(reinterpret_cast<__m256i*>(lanes),
                     _mm256_add_epi32(_mm256_add_epi32(rounded[0], rounded[1]),
                                      _mm256_add_epi32(rounded[2], rounded[3])));
  std::uint32_t total = 0;  // unsigned: the sum of a row that is not finite may be anything
  for (const std::uint32_t lane : lanes) total += lane;
  sum = static_cast<std::int32_t>(total);
  // packs works within 128-bit halves; permutations put the quarters back in order.
  __m256i words[2], beyond[2];
  for (std::size_t i = 0; i < 2; ++i) {
    words[i] = _mm256_permute4x64_epi64(_mm256_packs_epi32(rounded[2 * i], rounded[2 * i + 1]),
                                        0b11011000);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(codes + 16 * i), words[i]);
    beyond[i] = _mm256_or_si256(_mm256_cmpgt_epi16(words[i], _mm256_set1_epi16(127)),
                                _mm256_cmpgt_epi16(_mm256_set1_epi16(-127), words[i]));
  }
  const auto to_bytes = [](const __m256i (&from)[2]) {
    return _mm256_permute4x64_epi64(_mm256_packs_epi16(from[0], from[1]), 0b11011000);
  };
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(low), to_bytes(words));
  return static_cast<std::uint32_t>(_mm256_movemask_epi8(to_bytes(beyond)));
}

using WholeSum = Columns;
using RoundedSum = Lanes;
#include "body_linear.hpp"
#include "body_quantized.hpp"
#include "body.hpp"

}  // namespace

const Kernels& avx2_kernels() {
  static constexpr Kernels kernels = table("avx2");
  return kernels;
}

}  // namespace yearling
