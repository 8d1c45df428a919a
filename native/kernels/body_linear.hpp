// Matrix products; part of body.hpp.

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

// R rows × one tile of 4-bit weights.
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
      const Nibbles weights = unpack(load_codes(group.codes + load * 32));
      for (std::size_t r = 0; r < R; ++r) {
        add_products(partial[r], weights, codes + r * stride + load * 8);
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

// R rows × C tiles. Every product is added to its own sum in order of inputs, whatever R and C.
template <typename Weights, std::size_t R, std::size_t C>
void float_block(const Linear& weights, std::size_t tile, const float* in, std::size_t in_stride,
                 std::size_t row, const LinearOutput& out) {
  using Element = typename Weights::Element;
  const Element* from[C];
  for (std::size_t c = 0; c < C; ++c) {
    from[c] = reinterpret_cast<const Element*>(weights.tile(tile + c));
  }
  const float* inputs = in + row * in_stride;
  Lanes total[C][R] = {};
  for (std::size_t k = 0; k < weights.inputs(); ++k) {
    Lanes column[C];
    for (std::size_t c = 0; c < C; ++c) column[c] = Weights::at(from[c] + k * kTile);
    for (std::size_t r = 0; r < R; ++r) {
      const Lanes x = broadcast(inputs[r * in_stride + k]);
      for (std::size_t c = 0; c < C; ++c) total[c][r] = fma(x, column[c], total[c][r]);
    }
  }
  for (std::size_t c = 0; c < C; ++c) {
    store_tile<R>(total[c], tile + c, weights.outputs(), row, out);
  }
}

// Two fused multiply-adds start in each cycle and take four, so at least eight sums must be under
// way: many rows take two tiles at a time, which stay in the first-level cache meanwhile, and
// few rows more tiles.
template <typename Weights>
void linear_of(const Linear& weights, RowRange tiles, const float* in, std::size_t in_stride,
               RowRange rows, const LinearOutput& out) {
  const auto cover = [&]<std::size_t C>(std::size_t tile) {
    for_row_blocks<C == 8 ? 1 : C == 4 ? 3 : kFloatRows>(
        rows, [&]<std::size_t R>(std::size_t row) {
          float_block<Weights, R, C>(weights, tile, in, in_stride, row, out);
        });
  };
  const std::size_t count = rows.end - rows.begin;
  std::size_t tile = tiles.begin;
  if (count == 1) {
    for (; tile + 8 <= tiles.end; tile += 8) cover.template operator()<8>(tile);
  }
  if (count <= 3) {
    for (; tile + 4 <= tiles.end; tile += 4) cover.template operator()<4>(tile);
  }
  for (; tile + 2 <= tiles.end; tile += 2) cover.template operator()<2>(tile);
  for (; tile < tiles.end; ++tile) cover.template operator()<1>(tile);
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
