// AVX-512 with VNNI: Intel since Ice Lake, AMD since Zen 4.
//
// Results have the bits of the AVX2 kernels: floating-point sums keep their eight lanes. What is
// wider is the integer products, whose sums are exact, and attention, where lanes never meet. Only
// AVX-512 BF16 adds two products at a time, in attention over keys and values of that type.
#include <immintrin.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <type_traits>

#include "../numbers.hpp"
#include "kernels.hpp"

namespace yearling {
namespace {

#include "x86.hpp"

// Blocks of rows that keep their sums in 32 registers.
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

using WholeSum = __m512i;
using RoundedSum = __m512;
#include "body_linear.hpp"
#include "avx512_quantized.hpp"
#include "body.hpp"
#include "avx512_attention.hpp"

constexpr Kernels bf16_table() {
  Kernels kernels = table("avx512_bf16");
  kernels.multiplies_bfloats = true;
  kernels.attend[2] = attend_bfloats;
  return kernels;
}

}  // namespace

const Kernels& avx512_kernels() {
  static constexpr Kernels kernels = table("avx512");
  return kernels;
}

const Kernels& avx512_bf16_kernels() {
  static constexpr Kernels kernels = bf16_table();
  return kernels;
}

}  // namespace yearling
