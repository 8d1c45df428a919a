// AVX-512 with VNNI: Intel since Ice Lake, AMD since Zen 4.
//
// Results have the bits of the AVX2 kernels: floating-point sums keep their eight lanes. What is
// wider is the integer products, whose sums are exact, and attention, where lanes never meet.
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

// Blocks of rows that keep their sums in 32 registers.
inline constexpr std::size_t kInt4Rows = 8;
inline constexpr std::size_t kInt8Rows = 8;
inline constexpr std::size_t kScoreRows = 12;
inline constexpr std::size_t kValueRows = 6;
inline constexpr std::size_t kValuePairs = 4;

// Sixteen floats.
using Pair = __m512;
inline Pair load_pair(const float* from) { return _mm512_loadu_ps(from); }
inline Pair load_half_pair(const std::uint16_t* from) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
}
inline void store_pair(float* to, Pair x) { _mm512_storeu_ps(to, x); }
inline Pair broadcast_pair(float x) { return _mm512_set1_ps(x); }
inline Pair add(Pair a, Pair b) { return _mm512_add_ps(a, b); }
inline Pair multiply(Pair a, Pair b) { return _mm512_mul_ps(a, b); }
inline Pair fma(Pair a, Pair b, Pair c) { return _mm512_fmadd_ps(a, b, c); }

// The widest registers for work on single entries.
using Widest = __m512;
inline constexpr std::size_t kWidest = 16;
inline Widest load_widest(const float* from) { return _mm512_loadu_ps(from); }
inline void store(float* to, Widest x) { _mm512_storeu_ps(to, x); }
template <typename V>
V fill(float x);
template <>
inline Lanes fill<Lanes>(float x) {
  return broadcast(x);
}
template <>
inline Widest fill<Widest>(float x) {
  return _mm512_set1_ps(x);
}
inline Widest minimum(Widest a, Widest b) { return _mm512_min_ps(a, b); }
inline Widest maximum(Widest a, Widest b) { return _mm512_max_ps(a, b); }
inline Widest where_less(Widest a, Widest b, Widest then, Widest otherwise) {
  return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), otherwise, then);
}
inline Widest round_lanes(Widest x) {
  return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
inline Widest scale_by_power(Widest x, Widest n) {
  const __m512i exponent = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
  return _mm512_mul_ps(x, _mm512_castsi512_ps(_mm512_slli_epi32(exponent, 23)));
}

// Sixteen columns, two tiles, at a time: what a sum costs besides its products, the scales and
// minima, is paid once for both.
inline constexpr std::size_t kBlockTiles = 2;
using Columns = __m512;
inline Columns broadcast_columns(float x) { return _mm512_set1_ps(x); }
inline Lanes tile_of(Columns x, std::size_t index) {
  if (index == 0) return _mm512_castps512_ps256(x);
  return _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(x), 1));
}

template <typename Group>
struct Tiles {
  const Group* group[kBlockTiles];
  Tiles at(std::size_t index) const { return {{group[0] + index, group[1] + index}}; }
};
inline __m512i load_both(const void* first, const void* second) {
  return _mm512_inserti64x4(_mm512_castsi256_si512(load_codes(first)), load_codes(second), 1);
}
template <typename Group>
inline __m512i codes_of(const Tiles<Group>& tiles, std::size_t load) {
  return load_both(tiles.group[0]->codes + load * 32, tiles.group[1]->codes + load * 32);
}
inline Columns load_halves(const std::uint16_t* first, const std::uint16_t* second) {
  const auto eight = [](const std::uint16_t* from) {
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
  };
  return _mm512_cvtph_ps(
      _mm256_inserti128_si256(_mm256_castsi128_si256(eight(first)), eight(second), 1));
}
template <typename Group>
inline Columns scales_of(const Tiles<Group>& tiles) {
  return load_halves(tiles.group[0]->scale, tiles.group[1]->scale);
}
inline Columns minima_of(const Tiles<Int4Group>& tiles) {
  return load_halves(tiles.group[0]->minimum, tiles.group[1]->minimum);
}
inline Columns codes_of_input(const Tiles<Int4Group>& tiles, std::size_t input) {
  const int shift = static_cast<int>(input % 4 * 8 + (input % 8 < 4 ? 0 : 4));
  const __m512i lanes = _mm512_srl_epi32(codes_of(tiles, input / 8), _mm_cvtsi32_si128(shift));
  return _mm512_cvtepi32_ps(_mm512_and_si512(lanes, _mm512_set1_epi32(15)));
}
inline Columns codes_of_input(const Tiles<Int8Group>& tiles, std::size_t input) {
  const int shift = 24 - static_cast<int>(input % 4 * 8);
  const __m512i lanes = _mm512_sll_epi32(codes_of(tiles, input / 4), _mm_cvtsi32_si128(shift));
  return _mm512_cvtepi32_ps(_mm512_srai_epi32(lanes, 24));
}

// Thirty-two-bit sums, one lane per column.
struct Partial {
  __m512i value;
};
inline void add_four(Partial& sum, __m512i weights, const std::int8_t* inputs) {
  std::int32_t four;
  std::memcpy(&four, inputs, sizeof four);
  sum.value = _mm512_dpbusd_epi32(sum.value, weights, _mm512_set1_epi32(four));
}
inline Columns to_columns(const Partial& sum) { return _mm512_cvtepi32_ps(sum.value); }

// Eight inputs of each column.
struct Nibbles {
  __m512i low, high;
};
inline Nibbles unpack(__m512i x) {
  const __m512i mask = _mm512_set1_epi8(15);
  return {_mm512_and_si512(x, mask), _mm512_and_si512(_mm512_srli_epi16(x, 4), mask)};
}
inline void add_products(Partial& sum, const Nibbles& weights, const std::int8_t* inputs) {
  add_four(sum, weights.low, inputs);
  add_four(sum, weights.high, inputs + 4);
}

// dpbusd wants one unsigned operand: weights are moved up by 128, and their sums begin as much
// too low as that moves them.
using Wide = Partial;
struct SignedCodes {
  __m512i moved;
};
inline SignedCodes with_sign(__m512i x) {
  return {_mm512_xor_si512(x, _mm512_set1_epi8(-128))};
}
inline Wide empty_sum(std::int32_t code_sum) {
  // Unsigned: the sum of a row that is not finite may be anything.
  const std::uint32_t moved = 128u * static_cast<std::uint32_t>(code_sum);
  return {_mm512_set1_epi32(static_cast<std::int32_t>(0u - moved))};
}
inline void add_signed_products(Wide& sum, const SignedCodes& weights,
                                const std::int8_t* inputs) {
  add_four(sum, weights.moved, inputs);
}

// NaN when one of the values is: a broken row must not quantise to a sound one.
inline float largest_magnitude(const float* group) {
  const __m512 first = load_widest(group), second = load_widest(group + 16);
  const __mmask16 unordered = _mm512_cmp_ps_mask(first, first, _CMP_UNORD_Q) |
                              _mm512_cmp_ps_mask(second, second, _CMP_UNORD_Q);
  if (unordered) return std::numeric_limits<float>::quiet_NaN();
  const __m512 most = maximum(_mm512_abs_ps(first), _mm512_abs_ps(second));
  return max_lanes(maximum(tile_of(most, 0), tile_of(most, 1)));
}

// codes[i] = round(group[i] · inverse), to nearest even; returns their sum.
inline int round_to_int8(const float* group, float inverse, std::int8_t* codes) {
  const __m512 factor = _mm512_set1_ps(inverse);
  const __m512i first = _mm512_cvtps_epi32(load_widest(group) * factor);
  const __m512i second = _mm512_cvtps_epi32(load_widest(group + 16) * factor);
  const auto store_codes = [&](std::size_t at, __m512i rounded) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(codes + at), _mm512_cvtsepi32_epi8(rounded));
  };
  store_codes(0, first);
  store_codes(16, second);
  return _mm512_reduce_add_epi32(_mm512_add_epi32(first, second));
}

#include "body.hpp"

}  // namespace

const Kernels& avx512_kernels() {
  static constexpr Kernels kernels = table("avx512");
  return kernels;
}

}  // namespace yearling
