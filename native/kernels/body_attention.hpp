// Attention over cache blocks; part of body.hpp.

// How numbers lie in a block: keys [dimension][token], so that one query dimension meets sixteen
// keys at once, and values [token][dimension].
template <typename Type>
struct PlainCache {
  using Element = Type;
  static constexpr bool kRounds = false;
  static std::size_t key_at(std::size_t d, std::size_t token) { return d * kBlockTokens + token; }
  static std::size_t value_at(std::size_t d, std::size_t token, std::size_t head_dim) {
    return token * head_dim + d;
  }
};
struct Float32Cache : PlainCache<float> {
  static Pair pair_at(const float* from) { return load_pair(from); }
  static float scalar(float x) { return x; }
  static void narrow(const float* from, std::size_t count, float* to) {
    std::copy_n(from, count, to);
  }
  static Pair keys_of(const float* block, std::size_t d) {
    return load_pair(block + key_at(d, 0));
  }
  static Pair values_of(const float* block, std::size_t d, std::size_t token, std::size_t dims) {
    return load_pair(block + value_at(d, token, dims));
  }
};
struct Float16Cache : PlainCache<std::uint16_t> {
  static Pair pair_at(const std::uint16_t* from) { return load_half_pair(from); }
  static float scalar(std::uint16_t x) { return half_to_float(x); }
  static void narrow(const float* from, std::size_t count, std::uint16_t* to) {
    std::size_t i = 0;
    for (; i + kLanes <= count; i += kLanes) store_half(to + i, load(from + i));
    for (; i < count; ++i) to[i] = float_to_half(from[i]);
  }
  static Pair keys_of(const std::uint16_t* block, std::size_t d) {
    return load_half_pair(block + key_at(d, 0));
  }
  static Pair values_of(const std::uint16_t* block, std::size_t d, std::size_t token,
                        std::size_t dims) {
    return load_half_pair(block + value_at(d, token, dims));
  }
};
// Two dimensions of a key, and two tokens of a value, lie side by side, as AVX-512 BF16 multiplies
// them. It rounds queries and weights as well, so every instruction set does.
struct BFloat16Cache {
  using Element = std::uint16_t;
  static constexpr bool kRounds = true;
  static std::size_t key_at(std::size_t d, std::size_t token) {
    return (d / 2 * kBlockTokens + token) * 2 + d % 2;
  }
  static std::size_t value_at(std::size_t d, std::size_t token, std::size_t head_dim) {
    return (token / 2 * head_dim + d) * 2 + token % 2;
  }
  static float scalar(std::uint16_t x) { return bfloat_to_float(x); }
  static void narrow(const float* from, std::size_t count, std::uint16_t* to) {
    for (std::size_t i = 0; i < count; ++i) to[i] = float_to_bfloat(from[i]);
  }
  static Pair every_second(const std::uint16_t* from) {
    float values[2 * kLanes];
    for (std::size_t i = 0; i < 2 * kLanes; ++i) values[i] = bfloat_to_float(from[2 * i]);
    return load_pair(values);
  }
  static Pair keys_of(const std::uint16_t* block, std::size_t d) {
    return every_second(block + key_at(d, 0));
  }
  static Pair values_of(const std::uint16_t* block, std::size_t d, std::size_t token,
                        std::size_t dims) {
    return every_second(block + value_at(d, token, dims));
  }
};

template <typename Cache>
void write_key(const float* key, std::size_t head_dim, void* keys, std::size_t token) {
  typename Cache::Element narrow[kMaxHeadDim];
  Cache::narrow(key, head_dim, narrow);
  auto* to = static_cast<typename Cache::Element*>(keys);
  for (std::size_t d = 0; d < head_dim; ++d) to[Cache::key_at(d, token)] = narrow[d];
}

template <typename Cache>
void write_value(const float* value, std::size_t head_dim, void* values, std::size_t token) {
  typename Cache::Element narrow[kMaxHeadDim];
  Cache::narrow(value, head_dim, narrow);
  auto* to = static_cast<typename Cache::Element*>(values);
  for (std::size_t d = 0; d < head_dim; ++d) {
    to[Cache::value_at(d, token, head_dim)] = narrow[d];
  }
}

inline void round_to_bfloats(float* values, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) values[i] = bfloat_to_float(float_to_bfloat(values[i]));
}

// Asks for the line of the next keys and values that lies where a dimension's keys lie now.
template <typename Cache, std::size_t B>
inline void prefetch_blocks(const AttentionSplit& split, std::size_t block, std::size_t d) {
  constexpr std::size_t kLine = 64;
  const std::size_t at = d * kBlockTokens * sizeof(typename Cache::Element);
  if (at % kLine) return;
  for (std::size_t b = block; b < block + B; ++b) {
    if (!split.next_keys[b]) continue;
    __builtin_prefetch(static_cast<const std::byte*>(split.next_keys[b]) + at);
    __builtin_prefetch(static_cast<const std::byte*>(split.next_values[b]) + at);
  }
}

// scores[r][key] = scale · q_r · k for the keys of the first B blocks.
template <typename Cache, std::size_t R, std::size_t B>
inline void block_scores(const AttentionSplit& split, RowRange blocks, const float* queries,
                         float (*scores)[kSplitTokens]) {
  const typename Cache::Element* keys[B];
  for (std::size_t b = 0; b < B; ++b) {
    keys[b] = static_cast<const typename Cache::Element*>(split.keys[blocks.begin + b]);
  }
  Pair total[R][B] = {};
#pragma GCC unroll 4
  for (std::size_t d = 0; d < split.head_dim; ++d, queries += kAttentionRows) {
    // Few rows wait for memory more than for arithmetic.
    if constexpr (R < kScoreRows / 2) prefetch_blocks<Cache, B>(split, blocks.begin, d);
    Pair there[B];
    for (std::size_t b = 0; b < B; ++b) there[b] = Cache::keys_of(keys[b], d);
    for (std::size_t r = 0; r < R; ++r) {
      const Pair query = broadcast_pair(queries[r]);
      for (std::size_t b = 0; b < B; ++b) total[r][b] = fma(query, there[b], total[r][b]);
    }
  }
  const Pair scale = broadcast_pair(split.scale);
  for (std::size_t r = 0; r < R; ++r) {
    for (std::size_t b = 0; b < B; ++b) {
      store_pair(scores[r] + (blocks.begin + b) * kBlockTokens, multiply(total[r][b], scale));
    }
  }
}

// As many blocks at a time as keep about kScoreRows sums under way: few rows alone would wait for
// each sum's addition.
template <typename Cache, std::size_t R>
inline void split_scores(const AttentionSplit& split, RowRange blocks, const float* queries,
                         float (*scores)[kSplitTokens]) {
  constexpr std::size_t kTogether = R >= kScoreRows / 2 ? 1 : kScoreRows / R < 4 ? 2 : 4;
  for (; blocks.begin + kTogether <= blocks.end; blocks.begin += kTogether) {
    block_scores<Cache, R, kTogether>(split, blocks, queries, scores);
  }
  for (; blocks.begin < blocks.end; ++blocks.begin) {
    block_scores<Cache, R, 1>(split, blocks, queries, scores);
  }
}

// score = cap · tanh(score / cap), then + slope · (key - query).
inline void bend_scores(float* scores, RowRange keys, const ScoreBend& bend) {
  const float steps[kLanes] = {0, 1, 2, 3, 4, 5, 6, 7};
  for (std::size_t key = keys.begin; key < keys.end; key += kLanes) {
    Lanes score = load(scores + key);
    if (bend.soft_cap > 0) score = capped(score, bend.soft_cap);
    const Lanes distance =
        load(steps) + broadcast(static_cast<float>(key)) + broadcast(bend.distance);
    store(scores + key, fma(distance, broadcast(bend.slope), score));
  }
}

// Turns a row's scores of whole blocks into weights, 0 for keys that it does not see.
inline void weigh(float* scores, RowRange span, KeyRange keys, AttentionState& state) {
  const float infinity = std::numeric_limits<float>::infinity();
  const auto fill_unseen = [&](float value) {
    std::fill(scores + span.begin, scores + keys.begin, value);
    std::fill(scores + keys.end, scores + span.end, value);
  };
  state.maximum = -infinity;
  state.sum = 0.0f;
  if (keys.begin >= keys.end) {
    std::fill(scores + span.begin, scores + span.end, 0.0f);
    return;
  }
  fill_unseen(-infinity);
  Widest most = fill<Widest>(-infinity);
  for (std::size_t t = span.begin; t < span.end; t += kWidest) {
    most = maximum(load_widest(scores + t), most);
  }
  float lanes[kWidest];
  store(lanes, most);
  Lanes eight = load(lanes);
  for (std::size_t i = kLanes; i < kWidest; i += kLanes) eight = maximum(load(lanes + i), eight);
  state.maximum = max_lanes(eight);
  for (std::size_t t = span.begin; t < span.end; t += kWidest) {
    store(scores + t, exponential(load_widest(scores + t) - fill<Widest>(state.maximum)));
  }
  fill_unseen(0.0f);
  Pair total = broadcast_pair(0.0f);
  for (std::size_t t = span.begin; t < span.end; t += kBlockTokens) {
    total = add(load_pair(scores + t), total);
  }
  float sums[2 * kLanes];
  store_pair(sums, total);
  state.sum = sum_lanes(load(sums) + load(sums + kLanes));
}

// values = weights · V for R rows and C times sixteen dimensions from d on, in order of keys.
template <typename Cache, std::size_t R, std::size_t C>
inline void value_pairs(const AttentionSplit& split, std::size_t d, RowRange keys,
                        const float (*weights)[kSplitTokens], AttentionState* states) {
  constexpr std::size_t kWidth = 2 * kLanes;
  Pair total[R][C] = {};
  for (std::size_t b = keys.begin / kBlockTokens; b * kBlockTokens < keys.end; ++b) {
    const auto* block = static_cast<const typename Cache::Element*>(split.values[b]);
    const std::size_t first = b * kBlockTokens;
    const std::size_t end = std::min(keys.end - first, kBlockTokens);
#pragma GCC unroll 4
    for (std::size_t t = std::max(keys.begin, first) - first; t < end; ++t) {
      Pair v[C];
      for (std::size_t c = 0; c < C; ++c) {
        v[c] = Cache::values_of(block, d + c * kWidth, t, split.head_dim);
      }
      for (std::size_t r = 0; r < R; ++r) {
        const Pair weight = broadcast_pair(weights[r][first + t]);
        for (std::size_t c = 0; c < C; ++c) total[r][c] = fma(weight, v[c], total[r][c]);
      }
    }
  }
  for (std::size_t r = 0; r < R; ++r)
    for (std::size_t c = 0; c < C; ++c) store_pair(states[r].values + d + c * kWidth, total[r][c]);
}

// The same for the dimensions that no pair holds.
template <typename Cache>
inline void last_values(const AttentionSplit& split, std::size_t first, RowRange keys,
                        const float* weights, AttentionState& state) {
  std::fill(state.values + first, state.values + split.head_dim, 0.0f);
  for (std::size_t key = keys.begin; key < keys.end; ++key) {
    const auto* block =
        static_cast<const typename Cache::Element*>(split.values[key / kBlockTokens]);
    for (std::size_t d = first; d < split.head_dim; ++d) {
      const float v = Cache::scalar(block[Cache::value_at(d, key % kBlockTokens, split.head_dim)]);
      state.values[d] = scalar_fma(weights[key], v, state.values[d]);
    }
  }
}

template <typename Cache, std::size_t R>
inline void split_values(const AttentionSplit& split, RowRange keys,
                         const float (*weights)[kSplitTokens], AttentionState* states) {
  constexpr std::size_t kWidth = 2 * kLanes;
  std::size_t d = 0;
  for (; d + kValuePairs * kWidth <= split.head_dim; d += kValuePairs * kWidth) {
    value_pairs<Cache, R, kValuePairs>(split, d, keys, weights, states);
  }
  for (; d + kWidth <= split.head_dim; d += kWidth) {
    value_pairs<Cache, R, 1>(split, d, keys, weights, states);
  }
  if (d == split.head_dim) return;
  for (std::size_t r = 0; r < R; ++r) last_values<Cache>(split, d, keys, weights[r], states[r]);
}

// The keys of a split that some row sees. Those beyond may never have been written, and weight 0
// does not tame a NaN.
struct SeenKeys {
  RowRange keys{kSplitTokens, 0}, blocks, span;

  SeenKeys(const KeyRange* ranges, std::size_t rows) {
    for (std::size_t row = 0; row < rows; ++row) {
      if (ranges[row].begin >= ranges[row].end) continue;
      keys.begin = std::min<std::size_t>(keys.begin, ranges[row].begin);
      keys.end = std::max<std::size_t>(keys.end, ranges[row].end);
    }
    blocks = {keys.begin / kBlockTokens, (keys.end + kBlockTokens - 1) / kBlockTokens};
    span = {blocks.begin * kBlockTokens, blocks.end * kBlockTokens};
  }
};

template <typename Cache>
void attend(const AttentionSplit& split, const float* queries, const KeyRange* keys,
            const ScoreBend* bends, std::size_t rows, AttentionState* states) {
  const SeenKeys seen(keys, rows);
  float rounded[Cache::kRounds ? kMaxHeadDim * kAttentionRows : 1];
  if constexpr (Cache::kRounds) {
    std::copy_n(queries, split.head_dim * kAttentionRows, rounded);
    round_to_bfloats(rounded, split.head_dim * kAttentionRows);
    queries = rounded;
  }
  alignas(64) float scores[kAttentionRows][kSplitTokens];
  for_row_blocks<kScoreRows>({0, rows}, [&]<std::size_t R>(std::size_t row) {
    split_scores<Cache, R>(split, seen.blocks, queries + row, scores + row);
  });
  for (std::size_t row = 0; row < rows; ++row) {
    if (bends) bend_scores(scores[row], seen.span, bends[row]);
    weigh(scores[row], seen.span, keys[row], states[row]);
    if constexpr (Cache::kRounds) {
      round_to_bfloats(scores[row] + seen.span.begin, seen.span.end - seen.span.begin);
    }
  }
  for_row_blocks<kValueRows>({0, rows}, [&]<std::size_t R>(std::size_t row) {
    split_values<Cache, R>(split, seen.keys, scores + row, states + row);
  });
}

void merge_states(const AttentionState& from, std::size_t head_dim, AttentionState& into) {
  const float infinity = std::numeric_limits<float>::infinity();
  if (from.maximum == -infinity) return;
  const float most = std::max(from.maximum, into.maximum);
  const float old = into.maximum == -infinity ? 0.0f : exponential_of(into.maximum - most);
  const float added = exponential_of(from.maximum - most);
  for (std::size_t d = 0; d < head_dim; ++d) {
    into.values[d] = scalar_fma(from.values[d], added, into.values[d] * old);
  }
  into.sum = scalar_fma(from.sum, added, into.sum * old);
  into.maximum = most;
}

// ---- adapters ----------------------------------------------------------------------------

template <typename Cache, std::size_t R>
inline void project_rows(const float* in, const typename Cache::Element* matrix,
                         std::size_t width, float* out) {
  constexpr std::size_t kWidth = 2 * kLanes;
  Pair total[R] = {};
  std::size_t i = 0;
  for (; i + kWidth <= width; i += kWidth) {
    const Pair x = load_pair(in + i);
    for (std::size_t r = 0; r < R; ++r) {
      total[r] = fma(x, Cache::pair_at(matrix + r * width + i), total[r]);
    }
  }
  for (std::size_t r = 0; r < R; ++r) {
    float sums[kWidth];
    store_pair(sums, total[r]);
    out[r] = sum_lanes(load(sums) + load(sums + kLanes));
    for (std::size_t rest = i; rest < width; ++rest) {
      out[r] = scalar_fma(in[rest], Cache::scalar(matrix[r * width + rest]), out[r]);
    }
  }
}

template <typename Cache>
void project(const float* in, const void* matrix, std::size_t rows, std::size_t width,
             float* out) {
  const auto* from = static_cast<const typename Cache::Element*>(matrix);
  std::size_t row = 0;
  constexpr std::size_t kRows = 8;  // sums under way at a time
  for (; row + kRows <= rows; row += kRows) {
    project_rows<Cache, kRows>(in, from + row * width, width, out + row);
  }
  for (; row < rows; ++row) project_rows<Cache, 1>(in, from + row * width, width, out + row);
}
