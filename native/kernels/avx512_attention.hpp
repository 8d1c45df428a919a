// Attention over bfloat16 keys and values with AVX-512 BF16, two products an instruction; part of
// avx512.cpp. Written in assembly, so that nothing else of this file needs the extension.
//
// Legend: R rows, B blocks of keys and C times sixteen dimensions handled together.

inline constexpr std::size_t kPairTokens = kBlockTokens / 2;

inline void add_pairs(__m512& sum, __m512i pairs, __m512i factors) {
  asm("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(pairs), "v"(factors));
}
inline __m256i to_bfloats(__m512 x) {
  __m256i narrow;
  asm("vcvtneps2bf16 %1, %0" : "=v"(narrow) : "v"(x));
  return narrow;
}
inline __m512i to_pairs(__m512 first, __m512 second) {
  return _mm512_or_si512(_mm512_cvtepu16_epi32(to_bfloats(first)),
                         _mm512_slli_epi32(_mm512_cvtepu16_epi32(to_bfloats(second)), 16));
}
inline __m512i pair_of(const void* from) {
  std::int32_t pair;
  std::memcpy(&pair, from, sizeof pair);
  return _mm512_set1_epi32(pair);
}

// Two dimensions of each row's query side by side.
struct PairedQueries {
  alignas(64) std::uint32_t pairs[(kMaxHeadDim + 1) / 2][16];

  PairedQueries(const float* queries, std::size_t head_dim) {
    static_assert(kAttentionRows <= 16);
    constexpr auto kRows = static_cast<__mmask16>((1u << kAttentionRows) - 1);
    for (std::size_t d = 0; d < head_dim; d += 2, queries += 2 * kAttentionRows) {
      const __mmask16 second = d + 1 < head_dim ? kRows : 0;
      _mm512_store_si512(pairs[d / 2],
                         to_pairs(_mm512_maskz_loadu_ps(kRows, queries),
                                  _mm512_maskz_loadu_ps(second, queries + kAttentionRows)));
    }
  }
};

template <std::size_t R, std::size_t B>
[[gnu::noinline]] void paired_scores(const AttentionSplit& split, std::size_t block,
                                     const PairedQueries& queries, std::size_t row,
                                     float (*scores)[kSplitTokens]) {
  const std::uint16_t* keys[B];
  for (std::size_t b = 0; b < B; ++b) {
    keys[b] = static_cast<const std::uint16_t*>(split.keys[block + b]);
  }
  __m512 total[R][B] = {};
  for (std::size_t d = 0; d < split.head_dim; d += 2) {
    if constexpr (R < kScoreRows / 2) prefetch_blocks<BFloat16Cache, B>(split, block, d);
    __m512i there[B];
#pragma GCC unroll 16
    for (std::size_t b = 0; b < B; ++b) {
      there[b] = _mm512_loadu_si512(keys[b] + d * kBlockTokens);
    }
#pragma GCC unroll 16
    for (std::size_t r = 0; r < R; ++r) {
      const __m512i query = pair_of(&queries.pairs[d / 2][row + r]);
#pragma GCC unroll 16
      for (std::size_t b = 0; b < B; ++b) add_pairs(total[r][b], there[b], query);
    }
  }
  const __m512 scale = _mm512_set1_ps(split.scale);
#pragma GCC unroll 16
  for (std::size_t r = 0; r < R; ++r) {
#pragma GCC unroll 16
    for (std::size_t b = 0; b < B; ++b) {
      _mm512_store_ps(scores[r] + (block + b) * kBlockTokens, _mm512_mul_ps(total[r][b], scale));
    }
  }
}

// values = weights · V for C times sixteen dimensions from d on, or, where C is 1, for `count` of
// them. Tokens outside of `seen` may never have been written.
template <std::size_t R, std::size_t C>
[[gnu::noinline]] void paired_values(const AttentionSplit& split, std::size_t d,
                                     std::size_t count, RowRange seen,
                                     const std::uint16_t (*weights)[kSplitTokens],
                                     AttentionState* states) {
  const auto lanes = static_cast<__mmask16>((1u << count) - 1);
  __m512 total[R][C] = {};
  for (std::size_t pair = seen.begin / 2; 2 * pair < seen.end; ++pair) {
    const auto* from =
        static_cast<const std::uint16_t*>(split.values[pair / kPairTokens]) +
        (pair % kPairTokens * split.head_dim + d) * 2;
    __m512i there[C];
#pragma GCC unroll 16
    for (std::size_t c = 0; c < C; ++c) {
      there[c] = C == 1 ? _mm512_maskz_loadu_epi32(lanes, from)
                        : _mm512_loadu_si512(from + c * 2 * kLanes * 2);
    }
    const bool has_first = 2 * pair >= seen.begin, has_second = 2 * pair + 1 < seen.end;
    if (!has_first || !has_second) {
      const __m512i kept = _mm512_set1_epi32(static_cast<int>(has_first ? 0xffffu : 0xffff0000u));
#pragma GCC unroll 16
      for (std::size_t c = 0; c < C; ++c) there[c] = _mm512_and_si512(there[c], kept);
    }
#pragma GCC unroll 16
    for (std::size_t r = 0; r < R; ++r) {
      const __m512i weight = pair_of(&weights[r][2 * pair]);
#pragma GCC unroll 16
      for (std::size_t c = 0; c < C; ++c) add_pairs(total[r][c], there[c], weight);
    }
  }
#pragma GCC unroll 16
  for (std::size_t r = 0; r < R; ++r) {
#pragma GCC unroll 16
    for (std::size_t c = 0; c < C; ++c) {
      _mm512_mask_storeu_ps(states[r].values + d + c * 2 * kLanes,
                            C == 1 ? lanes : static_cast<__mmask16>(0xffff), total[r][c]);
    }
  }
}

// 2^x for x in [-127, 0], to 3 parts in a million: what is made of it is rounded to bfloat16.
inline __m512 power_of_two(__m512 x) {
  x = _mm512_max_ps(_mm512_set1_ps(-127.0f), x);  // this order of operands lets a NaN through
  const __m512 n = round_lanes(x), f = _mm512_sub_ps(x, n);
  __m512 p = _mm512_set1_ps(9.570082561e-3f);
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(5.591786354e-2f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(2.402474535e-1f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(6.931218144e-1f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(9.999992613e-1f));
  return _mm512_scalef_ps(p, n);
}

// Weights of a row's keys, 0 for those of whole blocks that it does not see.
inline void weigh_pairs(const float* scores, RowRange span, KeyRange keys, std::uint16_t* weights,
                        AttentionState& state) {
  const __m512i step = _mm512_set1_epi32(kBlockTokens);
  const __m512i count =
      _mm512_set1_epi32(static_cast<int>(keys.end - std::min(keys.begin, keys.end)));
  const __m512i first = _mm512_add_epi32(
      _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
      _mm512_set1_epi32(static_cast<int>(span.begin) - static_cast<int>(keys.begin)));
  const __m512 none = _mm512_set1_ps(-std::numeric_limits<float>::infinity());
  __m512 most = none;
  // Counted from the first that is seen; those before it are beyond all, without a sign.
  __m512i key = first;
  for (std::size_t t = span.begin; t < span.end; t += kBlockTokens) {
    const __mmask16 seen = _mm512_cmplt_epu32_mask(key, count);
    most = _mm512_max_ps(_mm512_mask_load_ps(none, seen, scores + t), most);
    key = _mm512_add_epi32(key, step);
  }
  state.maximum = _mm512_reduce_max_ps(most);
  const __m512 maximum = _mm512_set1_ps(state.maximum), log2_of_e = _mm512_set1_ps(1.44269504f);
  __m512 sum = _mm512_setzero_ps();
  key = first;
  for (std::size_t t = span.begin; t < span.end; t += kBlockTokens) {
    const __mmask16 seen = _mm512_cmplt_epu32_mask(key, count);
    const __m512 below = _mm512_sub_ps(_mm512_load_ps(scores + t), maximum);
    const __m512 weight =
        _mm512_maskz_mov_ps(seen, power_of_two(_mm512_mul_ps(below, log2_of_e)));
    sum = _mm512_add_ps(sum, weight);
    _mm256_store_si256(reinterpret_cast<__m256i*>(weights + t), to_bfloats(weight));
    key = _mm512_add_epi32(key, step);
  }
  state.sum = _mm512_reduce_add_ps(sum);
}

void attend_bfloats(const AttentionSplit& split, const float* queries, const KeyRange* keys,
                    const ScoreBend* bends, std::size_t rows, AttentionState* states) {
  const SeenKeys seen(keys, rows);
  const PairedQueries paired(queries, split.head_dim);
  alignas(64) float scores[kAttentionRows][kSplitTokens];
  for_row_blocks<kScoreRows>({0, rows}, [&]<std::size_t R>(std::size_t row) {
    constexpr std::size_t kTogether = kScoreRows / R < 4 ? 2 : 4;
    std::size_t block = seen.blocks.begin;
    for (; block + kTogether <= seen.blocks.end; block += kTogether) {
      paired_scores<R, kTogether>(split, block, paired, row, scores + row);
    }
    for (; block + 2 <= seen.blocks.end; block += 2) {
      paired_scores<R, 2>(split, block, paired, row, scores + row);
    }
    for (; block < seen.blocks.end; ++block) {
      paired_scores<R, 1>(split, block, paired, row, scores + row);
    }
  });
  alignas(64) std::uint16_t weights[kAttentionRows][kSplitTokens];
  for (std::size_t row = 0; row < rows; ++row) {
    if (bends) bend_scores(scores[row], seen.span, bends[row]);
    weigh_pairs(scores[row], seen.span, keys[row], weights[row], states[row]);
  }
  constexpr std::size_t kWidth = 2 * kLanes;
  for_row_blocks<kValueRows>({0, rows}, [&]<std::size_t R>(std::size_t row) {
    std::size_t d = 0;
    for (; d + kValuePairs * kWidth <= split.head_dim; d += kValuePairs * kWidth) {
      paired_values<R, kValuePairs>(split, d, kWidth, seen.keys, weights + row, states + row);
    }
    for (; d < split.head_dim; d += kWidth) {
      const std::size_t count = std::min(kWidth, split.head_dim - d);
      paired_values<R, 1>(split, d, count, seen.keys, weights + row, states + row);
    }
  });
}
