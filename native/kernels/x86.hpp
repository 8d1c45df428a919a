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
inline void store_half(std::uint16_t* to, Lanes x) {
  const __m128i half = _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), half);
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
