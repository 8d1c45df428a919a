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
inline Pair multiply(Pair a, Pair b) { return _mm512_mul_ps(a, b); }
inline Pair fma(Pair a, Pair b, Pair c) { return _mm512_fmadd_ps(a, b, c); }

// Eight inputs of each of eight columns, a column in each 64 bits.
using Nibbles = __m512i;
inline Nibbles unpack(Codes x) {
  const __m512i wide = _mm512_cvtepu32_epi64(x);
  // (wide | wide << 28) & 0x0f…: the high nibbles move into the empty half.
  return _mm512_ternarylogic_epi64(wide, _mm512_slli_epi64(wide, 28), _mm512_set1_epi8(15), 0xa8);
}

// Thirty-two-bit sums, two lanes per column.
struct Partial {
  __m512i value;
};
inline void add_products(Partial& sum, Nibbles weights, const std::int8_t* inputs) {
  long long eight;
  std::memcpy(&eight, inputs, sizeof eight);
  sum.value = _mm512_dpbusd_epi32(sum.value, weights, _mm512_set1_epi64(eight));
}
inline Lanes to_lanes(const Partial& sum) {
  const __m512i both = _mm512_add_epi32(sum.value, _mm512_srli_epi64(sum.value, 32));
  return _mm256_cvtepi32_ps(_mm512_cvtepi64_epi32(both));
}

// Thirty-two-bit sums, one lane per column.
struct Wide {
  __m256i value;
};
inline void add_signed_products(Wide& sum, Codes weights, const std::int8_t* inputs) {
  // dpbusd wants one unsigned operand: the weight's sign moves to the input.
  const __m256i magnitude = _mm256_abs_epi8(weights);
  const __m256i signed_inputs = _mm256_sign_epi8(four_inputs(inputs), weights);
  sum.value = _mm256_dpbusd_epi32(sum.value, magnitude, signed_inputs);
}
inline Lanes to_lanes(const Wide& sum) { return _mm256_cvtepi32_ps(sum.value); }

#include "body.hpp"

}  // namespace

const Kernels& avx512_kernels() {
  static constexpr Kernels kernels = table("avx512");
  return kernels;
}

}  // namespace yearling
