// Any processor: eight lanes as compiler vector extensions, integer products as plain loops.
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

inline constexpr std::size_t kLanes = 8;
inline constexpr std::size_t kInt4Rows = 6;
inline constexpr std::size_t kInt8Rows = 4;
inline constexpr std::size_t kScoreRows = 6;
inline constexpr std::size_t kValueRows = 3;
inline constexpr std::size_t kValuePairs = 2;
typedef float Lanes __attribute__((vector_size(32)));
typedef std::int32_t IntLanes __attribute__((vector_size(32)));

inline Lanes load(const float* from) {
  Lanes x;
  std::memcpy(&x, from, sizeof x);
  return x;
}
inline void store(float* to, Lanes x) { std::memcpy(to, &x, sizeof x); }
inline Lanes broadcast(float x) { return Lanes{x, x, x, x, x, x, x, x}; }
inline Lanes fma(Lanes a, Lanes b, Lanes c) { return a * b + c; }
inline float scalar_fma(float a, float b, float c) { return a * b + c; }
inline Lanes minimum(Lanes a, Lanes b) { return a < b ? a : b; }
inline Lanes maximum(Lanes a, Lanes b) { return a > b ? a : b; }
inline Lanes where_less(Lanes a, Lanes b, Lanes then, Lanes otherwise) {
  return a < b ? then : otherwise;
}
inline Lanes round_lanes(Lanes x) {
  // Adding 1.5 · 2^23 leaves no fraction bits, so the addition itself rounds to nearest even.
  const Lanes magic = broadcast(12582912.0f);
  return (x + magic) - magic;
}
inline Lanes scale_by_power(Lanes x, Lanes n) {
  const IntLanes exponent = (__builtin_convertvector(n, IntLanes) + 127) << 23;
  return x * std::bit_cast<Lanes>(exponent);
}
inline Lanes load_half(const std::uint16_t* from) {
  float values[kLanes];
  for (std::size_t i = 0; i < kLanes; ++i) values[i] = half_to_float(from[i]);
  return load(values);
}
inline void store_half(std::uint16_t* to, Lanes x) {
  for (std::size_t i = 0; i < kLanes; ++i) to[i] = float_to_half(x[i]);
}
inline Lanes load_bfloat(const std::uint16_t* from) {
  float values[kLanes];
  for (std::size_t i = 0; i < kLanes; ++i) values[i] = bfloat_to_float(from[i]);
  return load(values);
}
#include "pair.hpp"

inline float sum_lanes(Lanes x) {
  return ((x[0] + x[4]) + (x[2] + x[6])) + ((x[1] + x[5]) + (x[3] + x[7]));
}

inline float max_lanes(Lanes x) {
  float most = x[0];
  for (std::size_t i = 1; i < kLanes; ++i) most = x[i] > most ? x[i] : most;
  return most;
}

struct Codes {
  std::int8_t values[32];
};
inline Codes load_codes(const void* from) {
  Codes x;
  std::memcpy(x.values, from, sizeof x.values);
  return x;
}
struct Wide {
  IntLanes value;
};
inline void add_signed_products(Wide& sum, const Codes& weights, const std::int8_t* inputs) {
  for (std::size_t column = 0; column < kTile; ++column) {
    int total = 0;
    for (std::size_t i = 0; i < 4; ++i) total += weights.values[4 * column + i] * inputs[i];
    sum.value[column] += total;
  }
}
using Partial = Wide;
struct Nibbles {
  Codes low, high;
};
inline Nibbles unpack(const Codes& x) {
  Nibbles codes;
  for (std::size_t i = 0; i < sizeof x.values; ++i) {
    codes.low.values[i] = static_cast<std::int8_t>(x.values[i] & 15);
    codes.high.values[i] = static_cast<std::int8_t>(x.values[i] >> 4 & 15);
  }
  return codes;
}
inline void add_products(Partial& sum, const Nibbles& weights, const std::int8_t* inputs) {
  add_signed_products(sum, weights.low, inputs);
  add_signed_products(sum, weights.high, inputs + 4);
}
using Columns = IntLanes;
inline Lanes to_lanes(Columns x) { return __builtin_convertvector(x, Lanes); }
inline Columns to_columns(const Wide& sum) { return sum.value; }
// What sum and start_of make together, times a pair of factors.
inline void add_weighted(Columns& total, Columns sum, std::int32_t start,
                         const Int4Factors* factors) {
  const Columns halves = (sum + start) ^ kStartTooMuch;
  for (std::size_t column = 0; column < kTile; ++column) {
    const auto low = static_cast<std::int16_t>(halves[column]);
    total[column] += low * factors[column].slope + (halves[column] >> 16) * factors[column].centre;
  }
}

// codes[i] = round(group[i] · inverse), to nearest even, and the same in 8 bits; tells which do
// not fit them.
inline std::uint32_t round_codes(const float* group, float inverse, std::int16_t* codes,
                                 std::int8_t* low, std::int32_t& sum) {
  std::uint32_t beyond = 0;
  sum = 0;
  for (std::size_t i = 0; i < kGroup; ++i) {
    const float scaled = std::nearbyint(group[i] * inverse);
    // What is not a number may become any code: its row's scale is none either.
    codes[i] = std::fabs(scaled) < 32767.0f ? static_cast<std::int16_t>(scaled) : 0;
    low[i] = static_cast<std::int8_t>(codes[i]);
    if (codes[i] > 127 || codes[i] < -127) beyond |= 1u << i;
    sum += codes[i];
  }
  return beyond;
}

using WholeSum = Columns;
using RoundedSum = Lanes;
#include "body_linear.hpp"

inline std::int32_t high_start(std::uint32_t sum, std::size_t) { return start_of(sum); }
inline void put_start(QuantizedGroup& to, std::uint32_t sum, std::size_t) {
  to.start = start_of(sum);
}
#include "body_codes.hpp"
#include "body_quantized.hpp"
#include "body.hpp"

}  // namespace

const Kernels& portable_kernels() {
  static constexpr Kernels kernels = table("portable");
  return kernels;
}

}  // namespace yearling
