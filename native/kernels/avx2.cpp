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
inline constexpr std::size_t kScoreRows = 6;
inline constexpr std::size_t kValueRows = 6;
inline constexpr std::size_t kValuePairs = 1;

#include "pair.hpp"

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

using WholeSum = __m256i;
using RoundedSum = Lanes;
#include "body_linear.hpp"

// Products meet sums two groups at a time. The first one's start holds both, its own in the low
// half; so a row's groups are made in order.
inline std::int32_t high_start(std::uint32_t sum, std::size_t group) {
  return static_cast<std::int32_t>(group % 2 ? sum << 16 : sum & 0xffff);
}
inline void put_start(QuantizedGroup& to, std::uint32_t sum, std::size_t group) {
  to.start = high_start(sum, group);
  if (group % 2) (&to)[-1].start |= to.start;
}
static_assert(kPanelGroups % 2 == 0);
#include "body_codes.hpp"
#include "avx2_quantized.hpp"
#include "body.hpp"

}  // namespace

const Kernels& avx2_kernels() {
  static constexpr Kernels kernels = table("avx2");
  return kernels;
}

}  // namespace yearling
