// The kernels, written once over eight lanes.
//
// Each instruction-set file defines, inside an anonymous namespace before including this file,
// the lane primitives that differ: Lanes (eight floats) with fma, load_half, broadcast_codes,
// Partial with its dot products, and round_to_int8. Everything is in an anonymous namespace, so
// that code compiled for one instruction set is never linked into another's.
//
// Legend: R rows handled together, C tiles handled together.

// ---- linear, quantised -------------------------------------------------------------------

inline float sum_of_squares(const float* values, std::size_t count) {
  Lanes squares = broadcast(0.0f);
  std::size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    const Lanes x = load(values + i);
    squares = fma(x, x, squares);
  }
  float total = sum_lanes(squares);
  for (; i < count; ++i) total += values[i] * values[i];
  return total;
}

void quantize_row(const float* in, std::size_t inputs, QuantizedRows rows, std::size_t row) {
  std::int8_t* codes = rows.codes + row * rows.groups * kGroup;
  float* scales = rows.scales + row * rows.groups;
  float* sums = rows.sums + row * rows.groups;
  Outlier* outlier = rows.outliers + row * rows.groups;
  const float mean_square = sum_of_squares(in, inputs) / static_cast<float>(inputs);
  const float limit = kOutlierRatio * std::sqrt(mean_square);
  for (std::size_t g = 0; g < rows.groups; ++g, codes += kGroup) {
    const std::size_t count = std::min(kGroup, inputs - g * kGroup);
    float group[kGroup] = {};
    std::memcpy(group, in + g * kGroup, count * sizeof(float));
    float most = largest_magnitude(group), apart = 0.0f;
    if (most > limit) {
      std::size_t i = 0;
      while (std::fabs(group[i]) != most) ++i;
      apart = std::exchange(group[i], 0.0f);
      *outlier++ = {static_cast<std::uint32_t>(g * kGroup + i), apart};
      most = largest_magnitude(group);
    }
    const float inverse = most > 0 ? 127.0f / most : 0.0f;
    const int sum = round_to_int8(group, inverse, codes);
    scales[g] = most / 127.0f;
    sums[g] = scales[g] * static_cast<float>(sum) + apart;
  }
  rows.num_outliers[row] =
      static_cast<std::uint32_t>(outlier - (rows.outliers + row * rows.groups));
}

// Adds the products of a row's outliers with the codes of one tile, all scaled.
template <typename Group>
inline Lanes add_outliers(Lanes total, const Group* groups, const QuantizedRows& in,
                          std::size_t row) {
  const Outlier* outliers = in.outliers + row * in.groups;
  for (std::uint32_t i = 0; i < in.num_outliers[row]; ++i) {
    const Group& group = groups[outliers[i].input / kGroup];
    const Lanes scaled = load_half(group.scale) * broadcast(outliers[i].value);
    total = fma(codes_of_input(group, outliers[i].input % kGroup), scaled, total);
  }
  return total;
}

template <std::size_t R>
inline void store_tile(const Lanes (&sums)[R], std::size_t tile, std::size_t outputs,
                       std::size_t first_row, const LinearOutput& out) {
  const std::size_t column = tile * kTile, count = std::min(kTile, outputs - column);
  for (std::size_t r = 0; r < R; ++r) {
    Lanes result = sums[r];
    float* to = out.values + (first_row + r) * out.stride + column;
    if (count == kTile) {
      if (out.bias) result = result + load(out.bias + column);
      if (out.accumulates) result = result + load(to);
      store(to, result);
      continue;
    }
    float values[kTile];
    store(values, result);
    for (std::size_t c = 0; c < count; ++c) {
      float value = values[c];
      if (out.bias) value = value + out.bias[column + c];
      to[c] = out.accumulates ? value + to[c] : value;
    }
  }
}

// R rows × one tile of 4-bit weights. Sixteen-bit partial sums hold a whole group: 32 products
// of at most 15·127 in two lanes are at most 30,480.
template <std::size_t R>
void int4_rows(const Int4Group* groups, std::size_t tile, std::size_t outputs,
               const QuantizedRows& in, std::size_t row, const LinearOutput& out) {
  const std::size_t stride = in.groups * kGroup;
  const std::int8_t* codes = in.codes + row * stride;
  const float* scales = in.scales + row * in.groups;
  const float* sums = in.sums + row * in.groups;
  Lanes total[R] = {};
  for (std::size_t g = 0; g < in.groups; ++g, codes += kGroup) {
    const Int4Group& group = groups[g];
    Partial partial[R] = {};
    for (std::size_t load = 0; load < 4; ++load) {
      const Codes packed = load_codes(group.codes + load * 32);
      const Codes low = low_nibbles(packed), high = high_nibbles(packed);
      for (std::size_t r = 0; r < R; ++r) {
        add_unsigned_products(partial[r], low, codes + r * stride + load * 8);
        add_unsigned_products(partial[r], high, codes + r * stride + load * 8 + 4);
      }
    }
    const Lanes scale = load_half(group.scale), minimum = load_half(group.minimum);
    for (std::size_t r = 0; r < R; ++r) {
      const Lanes scaled = scale * broadcast(scales[r * in.groups + g]);
      total[r] = fma(to_lanes(partial[r]), scaled, total[r]);
      total[r] = fma(minimum, broadcast(sums[r * in.groups + g]), total[r]);
    }
  }
  for (std::size_t r = 0; r < R; ++r) total[r] = add_outliers(total[r], groups, in, row + r);
  store_tile<R>(total, tile, outputs, row, out);
}

template <std::size_t R>
void int8_rows(const Int8Group* groups, std::size_t tile, std::size_t outputs,
               const QuantizedRows& in, std::size_t row, const LinearOutput& out) {
  const std::size_t stride = in.groups * kGroup;
  const std::int8_t* codes = in.codes + row * stride;
  const float* scales = in.scales + row * in.groups;
  Lanes total[R] = {};
  for (std::size_t g = 0; g < in.groups; ++g, codes += kGroup) {
    const Int8Group& group = groups[g];
    Wide partial[R] = {};
    for (std::size_t load = 0; load < 8; ++load) {
      const Codes weights = load_codes(group.codes + load * 32);
      for (std::size_t r = 0; r < R; ++r) {
        add_signed_products(partial[r], weights, codes + r * stride + load * 4);
      }
    }
    const Lanes scale = load_half(group.scale);
    for (std::size_t r = 0; r < R; ++r) {
      const Lanes scaled = scale * broadcast(scales[r * in.groups + g]);
      total[r] = fma(to_lanes(partial[r]), scaled, total[r]);
    }
  }
  for (std::size_t r = 0; r < R; ++r) total[r] = add_outliers(total[r], groups, in, row + r);
  store_tile<R>(total, tile, outputs, row, out);
}

// Calls body.template operator()<R>(first row) once, for an R known at run time.
template <std::size_t Most, typename Body>
inline void with_row_count(std::size_t count, std::size_t row, Body&& body) {
  if (count == Most) {
    body.template operator()<Most>(row);
  } else if constexpr (Most > 1) {
    with_row_count<Most - 1>(count, row, body);
  }
}

// Cuts the range into as few blocks of at most `Most` rows as it takes, of nearly equal size:
// eight rows are 4 + 4, not 6 + 2, because a block of two unpacks weights for little use.
template <std::size_t Most, typename Body>
inline void for_row_blocks(RowRange rows, Body&& body) {
  for (std::size_t row = rows.begin; row < rows.end;) {
    const std::size_t left = rows.end - row, blocks = (left + Most - 1) / Most;
    const std::size_t count = (left + blocks - 1) / blocks;
    with_row_count<Most>(count, row, body);
    row += count;
  }
}

inline constexpr std::size_t kInt4Rows = 6;
inline constexpr std::size_t kInt8Rows = 4;
inline constexpr std::size_t kFloatRows = 6;

void linear_quantized(const Linear& weights, RowRange tiles, const QuantizedRows& in,
                      RowRange rows, const LinearOutput& out) {
  const std::size_t outputs = weights.outputs();
  if (weights.kind() == WeightKind::int4) {
    for_row_blocks<kInt4Rows>(rows, [&]<std::size_t R>(std::size_t row) {
      for (std::size_t tile = tiles.begin; tile < tiles.end; ++tile) {
        const auto* groups = reinterpret_cast<const Int4Group*>(weights.tile(tile));
        int4_rows<R>(groups, tile, outputs, in, row, out);
      }
    });
  } else {
    for_row_blocks<kInt8Rows>(rows, [&]<std::size_t R>(std::size_t row) {
      for (std::size_t tile = tiles.begin; tile < tiles.end; ++tile) {
        const auto* groups = reinterpret_cast<const Int8Group*>(weights.tile(tile));
        int8_rows<R>(groups, tile, outputs, in, row, out);
      }
    });
  }
}

// ---- linear, floating point --------------------------------------------------------------

struct Float32Weights {
  using Element = float;
  static Lanes at(const float* from) { return load(from); }
};
struct Float16Weights {
  using Element = std::uint16_t;
  static Lanes at(const std::uint16_t* from) { return load_half(from); }
};
struct BFloat16Weights {
  using Element = std::uint16_t;
  static Lanes at(const std::uint16_t* from) { return load_bfloat(from); }
};

template <typename Weights, std::size_t R>
void float_rows(const Linear& weights, std::size_t tile, const float* in, std::size_t in_stride,
                std::size_t row, const LinearOutput& out) {
  const auto* from = reinterpret_cast<const typename Weights::Element*>(weights.tile(tile));
  const float* inputs = in + row * in_stride;
  Lanes total[R] = {};
  for (std::size_t k = 0; k < weights.inputs(); ++k, from += kTile) {
    const Lanes column = Weights::at(from);
    for (std::size_t r = 0; r < R; ++r) {
      total[r] = fma(broadcast(inputs[r * in_stride + k]), column, total[r]);
    }
  }
  store_tile<R>(total, tile, weights.outputs(), row, out);
}

template <typename Weights>
void linear_of(const Linear& weights, RowRange tiles, const float* in, std::size_t in_stride,
               RowRange rows, const LinearOutput& out) {
  for_row_blocks<kFloatRows>(rows, [&]<std::size_t R>(std::size_t row) {
    for (std::size_t tile = tiles.begin; tile < tiles.end; ++tile) {
      float_rows<Weights, R>(weights, tile, in, in_stride, row, out);
    }
  });
}

void linear_float(const Linear& weights, RowRange tiles, const float* in, std::size_t in_stride,
                  RowRange rows, const LinearOutput& out) {
  switch (weights.kind()) {
    case WeightKind::float32:
      return linear_of<Float32Weights>(weights, tiles, in, in_stride, rows, out);
    case WeightKind::float16:
      return linear_of<Float16Weights>(weights, tiles, in, in_stride, rows, out);
    case WeightKind::bfloat16:
      return linear_of<BFloat16Weights>(weights, tiles, in, in_stride, rows, out);
    default: return;
  }
}

// ---- exponential -------------------------------------------------------------------------

// exp(x) to 2 units in the last place for x in [-87, 88]; clamped outside.
inline Lanes exponential(Lanes x) {
  // This order of operands lets a NaN through.
  x = minimum(broadcast(88.0f), maximum(broadcast(-87.0f), x));
  const Lanes n = round_lanes(x * broadcast(1.44269504f));
  // log 2 in two parts, so that n · log 2 is exact to beyond float32.
  x = fma(n, broadcast(-0.693359375f), x);
  x = fma(n, broadcast(2.12194440e-4f), x);
  Lanes p = broadcast(1.9875691500e-4f);
  p = fma(p, x, broadcast(1.3981999507e-3f));
  p = fma(p, x, broadcast(8.3334519073e-3f));
  p = fma(p, x, broadcast(4.1665795894e-2f));
  p = fma(p, x, broadcast(1.6666665459e-1f));
  p = fma(p, x, broadcast(5.0000001201e-1f));
  p = fma(p, x * x, x + broadcast(1.0f));
  return scale_by_power(p, n);
}

void exponentials(const float* in, std::size_t count, float most, float factor, float* out) {
  std::size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    store(out + i, exponential((load(in + i) - broadcast(most)) * broadcast(factor)));
  }
  if (i < count) {
    float lanes[kLanes] = {};
    std::copy(in + i, in + count, lanes);
    store(lanes, exponential((load(lanes) - broadcast(most)) * broadcast(factor)));
    std::copy(lanes, lanes + (count - i), out + i);
  }
}

// exp(x) for one value, by the same arithmetic as for eight.
inline float exponential_of(float x) {
  float lanes[kLanes];
  store(lanes, exponential(broadcast(x)));
  return lanes[0];
}

bool arg_max(const float* values, std::size_t count, std::size_t* index) {
  Lanes most = broadcast(-std::numeric_limits<float>::infinity());
  Lanes poison = broadcast(0.0f);  // x - x is NaN for infinities and NaN
  std::size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    const Lanes x = load(values + i);
    most = maximum(most, x);
    poison = poison + (x - x);
  }
  float lanes[kLanes], poisons[kLanes];
  store(lanes, most);
  store(poisons, poison);
  float best = *std::max_element(lanes, lanes + kLanes);
  bool is_finite = std::all_of(poisons, poisons + kLanes, [](float x) { return x == 0.0f; });
  for (; i < count; ++i) {
    best = std::max(best, values[i]);
    is_finite = is_finite && std::isfinite(values[i]);
  }
  if (!is_finite || count == 0) return false;
  *index = static_cast<std::size_t>(std::find(values, values + count, best) - values);
  return true;
}

// ---- norms, gate, rotary -----------------------------------------------------------------

void rms_norm(const float* in, const float* weight, float epsilon, std::size_t width, float* out) {
  const float mean_square = sum_of_squares(in, width) / static_cast<float>(width);
  const float scale = 1.0f / std::sqrt(mean_square + epsilon);
  std::size_t i = 0;
  for (; i + kLanes <= width; i += kLanes) {
    store(out + i, load(in + i) * broadcast(scale) * load(weight + i));
  }
  for (; i < width; ++i) out[i] = in[i] * scale * weight[i];
}

void layer_norm(const float* in, const float* weight, const float* bias, float epsilon,
                std::size_t width, float* out) {
  double total = 0, squares = 0;
  for (std::size_t i = 0; i < width; ++i) total += in[i];
  const double mean = total / static_cast<double>(width);
  for (std::size_t i = 0; i < width; ++i) squares += (in[i] - mean) * (in[i] - mean);
  const double variance = squares / static_cast<double>(width);
  const float scale = static_cast<float>(1 / std::sqrt(variance + epsilon));
  for (std::size_t i = 0; i < width; ++i) {
    out[i] = (in[i] - static_cast<float>(mean)) * scale * weight[i] + (bias ? bias[i] : 0.0f);
  }
}

void silu_gate(const float* gate, const float* up, std::size_t width, float* out) {
  const auto gated = [](Lanes g, Lanes u) {
    return g * u / (broadcast(1.0f) + exponential(broadcast(0.0f) - g));
  };
  std::size_t i = 0;
  for (; i + kLanes <= width; i += kLanes) store(out + i, gated(load(gate + i), load(up + i)));
  for (; i < width; ++i) {
    float g[kLanes] = {gate[i]}, u[kLanes] = {up[i]};
    store(g, gated(load(g), load(u)));
    out[i] = g[0];
  }
}

void rotate_half(float* head, const float* cosine, const float* sine, std::size_t half) {
  std::size_t i = 0;
  for (; i + kLanes <= half; i += kLanes) {
    const Lanes x = load(head + i), y = load(head + half + i);
    const Lanes c = load(cosine + i), s = load(sine + i);
    store(head + i, x * c - y * s);
    store(head + half + i, y * c + x * s);
  }
  for (; i < half; ++i) {
    const float x = head[i], y = head[half + i];
    head[i] = x * cosine[i] - y * sine[i];
    head[half + i] = y * cosine[i] + x * sine[i];
  }
}

// ---- attention ---------------------------------------------------------------------------

struct Float32Cache {
  using Element = float;
  static Lanes at(const float* from) { return load(from); }
  static float scalar(float x) { return x; }
  static float narrow(float x) { return x; }
};
struct Float16Cache {
  using Element = std::uint16_t;
  static Lanes at(const std::uint16_t* from) { return load_half(from); }
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
  Lanes total[R][2] = {};
  for (std::size_t d = 0; d < block.head_dim; ++d, keys += kBlockTokens) {
    const Lanes first = Cache::at(keys), second = Cache::at(keys + kLanes);
    for (std::size_t r = 0; r < R; ++r) {
      const Lanes q = broadcast(queries[r][d]);
      total[r][0] = fma(q, first, total[r][0]);
      total[r][1] = fma(q, second, total[r][1]);
    }
  }
  for (std::size_t r = 0; r < R; ++r) {
    store(scores[r], total[r][0] * broadcast(block.scale));
    store(scores[r] + kLanes, total[r][1] * broadcast(block.scale));
  }
}

// Turns scores into weights and rescales the state to the new maximum.
inline void block_weights(float* scores, std::size_t num_keys, std::size_t head_dim,
                          AttentionState& state) {
  const float infinity = std::numeric_limits<float>::infinity();
  std::fill(scores + num_keys, scores + kBlockTokens, -infinity);
  const Lanes first = load(scores), second = load(scores + kLanes);
  const float most = std::max(state.maximum, max_lanes(maximum(first, second)));
  store(scores, exponential(first - broadcast(most)));
  store(scores + kLanes, exponential(second - broadcast(most)));
  std::fill(scores + num_keys, scores + kBlockTokens, 0.0f);
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

// values += weights · V for R rows, four vectors of dimensions at a time.
template <typename Cache, std::size_t R>
inline void block_values(const AttentionBlock& block, const float (*weights)[kBlockTokens],
                         std::size_t num_keys, AttentionState* states) {
  using Element = typename Cache::Element;
  const auto* values = static_cast<const Element*>(block.values);
  const std::size_t head_dim = block.head_dim;
  std::size_t d = 0;
  constexpr std::size_t C = 4;
  for (; d + C * kLanes <= head_dim; d += C * kLanes) {
    Lanes total[R][C];
    for (std::size_t r = 0; r < R; ++r)
      for (std::size_t c = 0; c < C; ++c) total[r][c] = load(states[r].values + d + c * kLanes);
    for (std::size_t t = 0; t < num_keys; ++t) {
      const Element* row = values + t * head_dim + d;
      Lanes v[C];
      for (std::size_t c = 0; c < C; ++c) v[c] = Cache::at(row + c * kLanes);
      for (std::size_t r = 0; r < R; ++r) {
        const Lanes weight = broadcast(weights[r][t]);
        for (std::size_t c = 0; c < C; ++c) total[r][c] = fma(weight, v[c], total[r][c]);
      }
    }
    for (std::size_t r = 0; r < R; ++r)
      for (std::size_t c = 0; c < C; ++c) store(states[r].values + d + c * kLanes, total[r][c]);
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

inline constexpr std::size_t kScoreRows = 6;
inline constexpr std::size_t kValueRows = 3;

template <typename Cache>
void attend(const AttentionBlock& block, const float* const* queries, const std::size_t* num_keys,
            std::size_t rows, AttentionState* states) {
  for_row_blocks<kScoreRows>({0, rows}, [&]<std::size_t R>(std::size_t row) {
    alignas(32) float scores[R][kBlockTokens];
    block_scores<Cache, R>(block, queries + row, scores);
    for (std::size_t r = 0; r < R; ++r) {
      if (num_keys[row + r]) {
        block_weights(scores[r], num_keys[row + r], block.head_dim, states[row + r]);
      } else {
        std::fill_n(scores[r], kBlockTokens, 0.0f);
      }
    }
    for_row_blocks<kValueRows>({0, R}, [&]<std::size_t V>(std::size_t r) {
      // Keys beyond every row's reach may never have been written; weight 0 does not tame a NaN.
      const std::size_t most = *std::max_element(num_keys + row + r, num_keys + row + r + V);
      block_values<Cache, V>(block, scores + r, most, states + row + r);
    });
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

constexpr Kernels table(const char* name) {
  return {
      .name = name,
      .quantize_row = quantize_row,
      .linear_quantized = linear_quantized,
      .linear_float = linear_float,
      .rms_norm = rms_norm,
      .layer_norm = layer_norm,
      .silu_gate = silu_gate,
      .rotate_half = rotate_half,
      .attend = {attend<Float32Cache>, attend<Float16Cache>},
      .write_key = {write_key<Float32Cache>, write_key<Float16Cache>},
      .write_value = {write_value<Float32Cache>, write_value<Float16Cache>},
      .merge_states = merge_states,
      .arg_max = arg_max,
      .exponentials = exponentials,
  };
}
