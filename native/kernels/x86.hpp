// Eight lanes of x86-64 with AVX2, FMA and F16C: what the files of its instruction sets share.
// Included inside an anonymous namespace, like body.hpp.

inline constexpr std::size_t kLanes = 8;
using Lanes = __m256;

inline Lanes load(const float* from) { return _mm256_loadu_ps(from); }
inline void store(float* to, Lanes x) { _mm256_storeu_ps(to, x); }
inline Lanes broadcast(float x) { return _mm256_set1_ps(x); }
inline Lanes fma(Lanes a, Lanes b, Lanes c) { return _mm256_fmadd_ps(a, b, c); }
inline float scalar_fma(float a, float b, float c) { return std::fma(a, b, c); }
inline Lanes minimum(Lanes a, Lanes b) { return _mm256_min_ps(a, b); }
inline Lanes maximum(Lanes a, Lanes b) { return _mm256_max_ps(a, b); }
inline Lanes where_less(Lanes a, Lanes b, Lanes then, Lanes otherwise) {
  return _mm256_blendv_ps(otherwise, then, _mm256_cmp_ps(a, b, _CMP_LT_OQ));
}
inline Lanes round_lanes(Lanes x) {
  return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
inline Lanes scale_by_power(Lanes x, Lanes n) {
  const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
  return _mm256_mul_ps(x, _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23)));
}
inline Lanes load_half(const std::uint16_t* from) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
}
inline Lanes load_bfloat(const std::uint16_t* from) {
  const __m128i raw = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(raw), 16));
}
inline float sum_lanes(Lanes x) {
  __m128 half = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  half = _mm_add_ps(half, _mm_movehl_ps(half, half));
  half = _mm_add_ss(half, _mm_movehdup_ps(half));
  return _mm_cvtss_f32(half);
}

inline float max_lanes(Lanes x) {
  __m128 half = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  half = _mm_max_ps(half, _mm_movehl_ps(half, half));
  half = _mm_max_ss(half, _mm_movehdup_ps(half));
  return _mm_cvtss_f32(half);
}

// 32 codes: four inputs of each of eight columns.
using Codes = __m256i;
inline Codes load_codes(const void* from) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(from));
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
  alignas(32) int lanes[kLanes];
  _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), sum);
  int total = 0;
  for (const int lane : lanes) total += lane;
  return total;
}
