// Attention over cache blocks; part of body.hpp.

struct Float32Cache {
  using Element = float;
  static Lanes at(const float* from) { return load(from); }
  static Pair pair_at(const float* from) { return load_pair(from); }
  static float scalar(float x) { return x; }
  static float narrow(float x) { return x; }
};
struct Float16Cache {
  using Element = std::uint16_t;
  static Lanes at(const std::uint16_t* from) { return load_half(from); }
  static Pair pair_at(const std::uint16_t* from) { return load_half_pair(from); }
  static float scalar(std::uint16_t x) { return half_to_float(x); }
  static std::uint16_t narrow(float x) { return float_to_half(x); }
};

template <typename Cache>
void write_key(const float* key, std::size_t head_dim, void* keys, std::size_t token) {
  auto* to = static_cast<typename Cache::Element*>(keys) + token;
  for (std::size_t d = 0; d < head_dim; ++d) to[d * kBlockTokens] = Cache::narrow(key[d]);
}

template <typename Cache>
void write_value(const float* value, std::size_t head_dim, void* values, std::size_t token) {
  auto* to = static_cast<typename Cache::Element*>(values) + token * head_dim;
  for (std::size_t d = 0; d < head_dim; ++d) to[d] = Cache::narrow(value[d]);
}

// scores[r][t] = q_r · k_t for the 16 keys of a block.
template <typename Cache, std::size_t R>
inline void block_scores(const AttentionBlock& block, const float* const* queries,
                         float (*scores)[kBlockTokens]) {
  const auto* keys = static_cast<const typename Cache::Element*>(block.keys);
  Pair total[R] = {};
  for (std::size_t d = 0; d < block.head_dim; ++d, keys += kBlockTokens) {
    const Pair there = Cache::pair_at(keys);
    for (std::size_t r = 0; r < R; ++r) {
      total[r] = fma(broadcast_pair(queries[r][d]), there, total[r]);
    }
  }
  for (std::size_t r = 0; r < R; ++r) {
    store_pair(scores[r], multiply(total[r], broadcast_pair(block.scale)));
  }
}

// Turns scores of keys [begin, end) into weights and rescales the state to the new maximum.
inline void block_weights(float* scores, std::size_t begin, std::size_t end, std::size_t head_dim,
                          AttentionState& state) {
  const float infinity = std::numeric_limits<float>::infinity();
  const bool is_cut = begin > 0 || end < kBlockTokens;
  if (is_cut) {
    std::fill(scores, scores + begin, -infinity);
    std::fill(scores + end, scores + kBlockTokens, -infinity);
  }
  const Lanes first = load(scores), second = load(scores + kLanes);
  const float most = std::max(state.maximum, max_lanes(maximum(first, second)));
  for (std::size_t t = 0; t < kBlockTokens; t += kWidest) {
    const Widest score = load_widest(scores + t);
    store(scores + t, exponential(score - fill<Widest>(most)));
  }
  if (is_cut) {
    std::fill(scores, scores + begin, 0.0f);
    std::fill(scores + end, scores + kBlockTokens, 0.0f);
  }
  const float total = sum_lanes(load(scores) + load(scores + kLanes));
  if (most != state.maximum) {
    const bool is_first = state.maximum == -infinity;
    const float factor = is_first ? 0.0f : exponential_of(state.maximum - most);
    for (std::size_t d = 0; d < head_dim; ++d) state.values[d] *= factor;
    state.sum *= factor;
    state.maximum = most;
  }
  state.sum += total;
}

// values += weights · V for R rows and C times sixteen dimensions from d on, in order of keys.
template <typename Cache, std::size_t R, std::size_t C>
inline void add_value_pairs(const typename Cache::Element* values, std::size_t head_dim,
                            std::size_t d, const float (*weights)[kBlockTokens],
                            std::size_t num_keys, AttentionState* states) {
  constexpr std::size_t kWidth = 2 * kLanes;
  Pair total[R][C];
  for (std::size_t r = 0; r < R; ++r)
    for (std::size_t c = 0; c < C; ++c) total[r][c] = load_pair(states[r].values + d + c * kWidth);
  for (std::size_t t = 0; t < num_keys; ++t) {
    const typename Cache::Element* row = values + t * head_dim + d;
    Pair v[C];
    for (std::size_t c = 0; c < C; ++c) v[c] = Cache::pair_at(row + c * kWidth);
    for (std::size_t r = 0; r < R; ++r) {
      const Pair weight = broadcast_pair(weights[r][t]);
      for (std::size_t c = 0; c < C; ++c) total[r][c] = fma(weight, v[c], total[r][c]);
    }
  }
  for (std::size_t r = 0; r < R; ++r)
    for (std::size_t c = 0; c < C; ++c) store_pair(states[r].values + d + c * kWidth, total[r][c]);
}

// The same for eight dimensions.
template <typename Cache, std::size_t R>
inline void add_values(const typename Cache::Element* values, std::size_t head_dim, std::size_t d,
                       const float (*weights)[kBlockTokens], std::size_t num_keys,
                       AttentionState* states) {
  Lanes total[R];
  for (std::size_t r = 0; r < R; ++r) total[r] = load(states[r].values + d);
  for (std::size_t t = 0; t < num_keys; ++t) {
    const Lanes v = Cache::at(values + t * head_dim + d);
    for (std::size_t r = 0; r < R; ++r) total[r] = fma(broadcast(weights[r][t]), v, total[r]);
  }
  for (std::size_t r = 0; r < R; ++r) store(states[r].values + d, total[r]);
}

template <typename Cache, std::size_t R>
inline void block_values(const AttentionBlock& block, const float (*weights)[kBlockTokens],
                         std::size_t num_keys, AttentionState* states) {
  const auto* values = static_cast<const typename Cache::Element*>(block.values);
  const std::size_t head_dim = block.head_dim;
  std::size_t d = 0;
  constexpr std::size_t kWidth = 2 * kLanes;
  for (; d + kValuePairs * kWidth <= head_dim; d += kValuePairs * kWidth) {
    add_value_pairs<Cache, R, kValuePairs>(values, head_dim, d, weights, num_keys, states);
  }
  for (; d + kWidth <= head_dim; d += kWidth) {
    add_value_pairs<Cache, R, 1>(values, head_dim, d, weights, num_keys, states);
  }
  for (; d + kLanes <= head_dim; d += kLanes) {
    add_values<Cache, R>(values, head_dim, d, weights, num_keys, states);
  }
  for (; d < head_dim; ++d) {
    for (std::size_t r = 0; r < R; ++r) {
      float total = states[r].values[d];
      for (std::size_t t = 0; t < num_keys; ++t) {
        total = scalar_fma(weights[r][t], Cache::scalar(values[t * head_dim + d]), total);
      }
      states[r].values[d] = total;
    }
  }
}

// Weighs and adds a block's values, once `scores` holds R rows of finished scores.
template <typename Cache, std::size_t R>
inline void add_block(const AttentionBlock& block, float (*scores)[kBlockTokens],
                      const KeyRange* keys, AttentionState* states) {
  for (std::size_t r = 0; r < R; ++r) {
    if (keys[r].begin < keys[r].end) {
      block_weights(scores[r], keys[r].begin, keys[r].end, block.head_dim, states[r]);
    } else {
      std::fill_n(scores[r], kBlockTokens, 0.0f);
    }
  }
  for_row_blocks<kValueRows>({0, R}, [&]<std::size_t V>(std::size_t r) {
    // Keys beyond every row's reach may never have been written; weight 0 does not tame a NaN.
    std::size_t most = 0;
    for (std::size_t v = r; v < r + V; ++v) most = std::max<std::size_t>(most, keys[v].end);
    block_values<Cache, V>(block, scores + r, most, states + r);
  });
}

template <typename Cache>
void attend(const AttentionBlock& block, const float* const* queries, const KeyRange* keys,
            std::size_t rows, AttentionState* states) {
  for_row_blocks<kScoreRows>({0, rows}, [&]<std::size_t R>(std::size_t row) {
    alignas(64) float scores[R][kBlockTokens];
    block_scores<Cache, R>(block, queries + row, scores);
    add_block<Cache, R>(block, scores, keys + row, states + row);
  });
}

// score = cap · tanh(score / cap), then + slope · (key - query), for the 16 keys of a block.
inline void bend_scores(float* scores, const ScoreBend& bend) {
  const float steps[kBlockTokens] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  for (std::size_t t = 0; t < kBlockTokens; t += kLanes) {
    Lanes score = load(scores + t);
    if (bend.soft_cap > 0) score = capped(score, bend.soft_cap);
    const Lanes distance = load(steps + t) + broadcast(bend.distance);
    store(scores + t, fma(distance, broadcast(bend.slope), score));
  }
}

template <typename Cache>
void attend_bent(const AttentionBlock& block, const float* const* queries, const KeyRange* keys,
                 const ScoreBend* bends, std::size_t rows, AttentionState* states) {
  for_row_blocks<kScoreRows>({0, rows}, [&]<std::size_t R>(std::size_t row) {
    alignas(64) float scores[R][kBlockTokens];
    block_scores<Cache, R>(block, queries + row, scores);
    for (std::size_t r = 0; r < R; ++r) bend_scores(scores[r], bends[row + r]);
    add_block<Cache, R>(block, scores, keys + row, states + row);
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
