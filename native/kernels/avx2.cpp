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

inline __m256i four_inputs(const std::int8_t* codes) {
  std::int32_t four;
  std::memcpy(&four, codes, sizeof four);
  return _mm256_set1_epi32(four);
}

// One input's codes of all eight columns: a byte or half a byte of each 32-bit lane.
inline Lanes codes_of_input(const Int4Group& group, std::size_t input) {
  const int shift = static_cast<int>(input % 4 * 8 + (input % 8 < 4 ? 0 : 4));
  const __m256i lanes = _mm256_srl_epi32(load_codes(group.codes + input / 8 * 32),
                                         _mm_cvtsi32_si128(shift));
  return _mm256_cvtepi32_ps(_mm256_and_si256(lanes, _mm256_set1_epi32(15)));
}
inline Lanes codes_of_input(const Int8Group& group, std::size_t input) {
  const int shift = 24 - static_cast<int>(input % 4 * 8);
  const __m256i lanes = _mm256_sll_epi32(load_codes(group.codes + input / 4 * 32),
                                         _mm_cvtsi32_si128(shift));
  return _mm256_cvtepi32_ps(_mm256_srai_epi32(lanes, 24));
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
inline Lanes to_columns(const Partial& sum) {
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
inline Lanes to_columns(const Wide& sum) { return _mm256_cvtepi32_ps(sum.value); }

// NaN when one of the values is: a broken row must not quantise to a sound one.
inline float largest_magnitude(const float* group) {
  const __m256 sign = _mm256_set1_ps(-0.0f);
  __m256 most = _mm256_setzero_ps(), unordered = _mm256_setzero_ps();
  for (std::size_t i = 0; i < kGroup; i += kLanes) {
    const __m256 x = load(group + i);
    most = _mm256_max_ps(_mm256_andnot_ps(sign, x), most);
    unordered = _mm256_or_ps(unordered, _mm256_cmp_ps(x, x, _CMP_UNORD_Q));
  }
  if (_mm256_movemask_ps(unordered)) return std::numeric_limits<float>::quiet_NaN();
  return max_lanes(most);
}

// codes[i] = round(group[i] · inverse), to nearest even; returns their sum.
inline int round_to_int8(const float* group, float inverse, std::int8_t* codes) {
  __m256i rounded[4];
  for (std::size_t i = 0; i < 4; ++i) {
    rounded[i] = _mm256_cvtps_epi32(load(group + i * kLanes) * broadcast(inverse));
  }
  const __m256i sum = _mm256_add_epi32(_mm256_add_epi32(rounded[0], rounded[1]),
                                       _mm256_add_epi32(rounded[2], rounded[3]));
  const __m256i low = _mm256_packs_epi32(rounded[0], rounded[1]);
  const __m256i high = _mm256_packs_epi32(rounded[2], rounded[3]);
  // packs works within 128-bit halves; the permutation puts the quarters back in order.
  const __m256i packed = _mm256_permutevar8x32_epi32(
      _mm256_packs_epi16(low, high), _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(codes), packed);
  alignas(32) std::uint32_t lanes[kLanes];
  _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), sum);
  std::uint32_t total = 0;  // unsigned: the sum of a row that is not finite may be anything
  for (const std::uint32_t lane : lanes) total += lane;
  return static_cast<int>(total);
}

#include "one_tile.hpp"

#include "body.hpp"

}  // namespace

const Kernels& avx2_kernels() {
  static constexpr Kernels kernels = table("avx2");
  return kernels;
}

}  // namespace yearling
