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
  QuantizedGroup* to = rows.row(row);
  Outlier* const outliers = rows.outliers_of(row);
  Outlier* outlier = outliers;
  const float mean_square = sum_of_squares(in, inputs) / static_cast<float>(inputs);
  const float limit = kOutlierRatio * std::sqrt(mean_square);
  for (std::size_t first = 0; first < inputs; first += kGroup, ++to) {
    float padded[kGroup];
    const float* group = in + first;
    if (const std::size_t count = inputs - first; count < kGroup) {
      std::fill(std::copy_n(group, count, padded), padded + kGroup, 0.0f);
      group = padded;
    }
    float most = largest_magnitude(group), apart = 0.0f;
    if (most > limit) {
      std::size_t i = 0;
      while (std::fabs(group[i]) != most) ++i;
      if (group != padded) std::copy_n(group, kGroup, padded);
      group = padded;
      apart = std::exchange(padded[i], 0.0f);
      *outlier++ = {static_cast<std::uint32_t>(first + i), apart};
      most = largest_magnitude(group);
    }
    const float inverse = most > 0 ? 127.0f / most : 0.0f;
    to->scale = most / 127.0f;
    to->code_sum = round_to_int8(group, inverse, to->codes);
    to->sum = to->scale * static_cast<float>(to->code_sum) + apart;
  }
  rows.num_outliers[row] = static_cast<std::uint32_t>(outlier - outliers);
}

// Adds the products of a row's outliers with the codes of a block of tiles, all scaled.
template <typename Group>
inline Columns add_outliers(Columns total, const Tiles<Group>& groups, const QuantizedRows& in,
                            std::size_t row) {
  const Outlier* outliers = in.outliers_of(row);
  for (std::uint32_t i = 0; i < in.num_outliers[row]; ++i) {
    const Tiles<Group> there = groups.at(outliers[i].input / kGroup);
    const Columns scaled = scales_of(there) * broadcast_columns(outliers[i].value);
    total = fma(codes_of_input(there, outliers[i].input % kGroup), scaled, total);
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

template <std::size_t R>
inline void store_block(const Columns (&sums)[R], RowRange tiles, std::size_t outputs,
                        std::size_t first_row, const LinearOutput& out) {
  for (std::size_t tile = tiles.begin; tile < tiles.end; ++tile) {
    Lanes part[R];
    for (std::size_t r = 0; r < R; ++r) part[r] = tile_of(sums[r], tile - tiles.begin);
    store_tile<R>(part, tile, outputs, first_row, out);
  }
}

// The groups of inputs of a block's tiles; a block that is short of tiles repeats its first.
template <typename Group>
inline Tiles<Group> tiles_of(const Linear& weights, RowRange block) {
  Tiles<Group> tiles;
  for (std::size_t i = 0; i < kBlockTiles; ++i) {
    const std::size_t tile = block.begin + i < block.end ? block.begin + i : block.begin;
    tiles.group[i] = reinterpret_cast<const Group*>(weights.tile(tile));
  }
  return tiles;
}

// Asks for the weights that this thread will probably meet next, evenly over the calls for those
// that it meets now: few rows wait for memory more than for arithmetic.
template <typename Group>
class Ahead {
 public:
  Ahead(const Linear& weights, std::size_t tile, std::size_t calls)
      : next_(reinterpret_cast<std::uintptr_t>(weights.tile(0)) + tile * weights.tile_bytes()),
        calls_(calls) {}
  void step() {
    if (++steps_ < calls_) return;
    steps_ = 0;
    constexpr std::size_t kBytes = kBlockTiles * sizeof(Group), kLine = 64;
    for (std::size_t line = 0; line < kBytes; line += kLine) {
      __builtin_prefetch(reinterpret_cast<const void*>(next_ + line));
    }
    next_ += kBytes;
  }

 private:
  std::uintptr_t next_;  // may lie beyond the weights: asking for it is harmless
  std::size_t calls_, steps_ = 0;
};

// R rows × one block of tiles of 4-bit weights.
template <std::size_t R>
void int4_rows(const Linear& weights, RowRange block, const QuantizedRows& in, std::size_t row,
               const LinearOutput& out, Ahead<Int4Group>& ahead) {
  const QuantizedGroup* inputs = in.row(row);
  const auto tiles = tiles_of<Int4Group>(weights, block);
  Columns total[R] = {};
  for (std::size_t g = 0; g < in.row_groups; ++g, ++inputs) {
    const Tiles<Int4Group> groups = tiles.at(g);
    ahead.step();
    Partial partial[R] = {};
    for (std::size_t load = 0; load < 4; ++load) {
      const Nibbles nibbles = unpack(codes_of(groups, load));
      for (std::size_t r = 0; r < R; ++r) {
        add_products(partial[r], nibbles, inputs[r * in.row_groups].codes + load * 8);
      }
    }
    const Columns scale = scales_of(groups), minimum = minima_of(groups);
    for (std::size_t r = 0; r < R; ++r) {
      const Columns scaled = scale * broadcast_columns(inputs[r * in.row_groups].scale);
      total[r] = fma(to_columns(partial[r]), scaled, total[r]);
      total[r] = fma(minimum, broadcast_columns(inputs[r * in.row_groups].sum), total[r]);
    }
  }
  for (std::size_t r = 0; r < R; ++r) total[r] = add_outliers(total[r], tiles, in, row + r);
  store_block<R>(total, block, weights.outputs(), row, out);
}

template <std::size_t R>
void int8_rows(const Linear& weights, RowRange block, const QuantizedRows& in, std::size_t row,
               const LinearOutput& out, Ahead<Int8Group>& ahead) {
  const QuantizedGroup* inputs = in.row(row);
  const auto tiles = tiles_of<Int8Group>(weights, block);
  Columns total[R] = {};
  for (std::size_t g = 0; g < in.row_groups; ++g, ++inputs) {
    const Tiles<Int8Group> groups = tiles.at(g);
    ahead.step();
    Wide partial[R];
    for (std::size_t r = 0; r < R; ++r) {
      partial[r] = empty_sum(inputs[r * in.row_groups].code_sum);
    }
    for (std::size_t load = 0; load < 8; ++load) {
      const SignedCodes there = with_sign(codes_of(groups, load));
      for (std::size_t r = 0; r < R; ++r) {
        add_signed_products(partial[r], there, inputs[r * in.row_groups].codes + load * 4);
      }
    }
    const Columns scale = scales_of(groups);
    for (std::size_t r = 0; r < R; ++r) {
      const Columns scaled = scale * broadcast_columns(inputs[r * in.row_groups].scale);
      total[r] = fma(to_columns(partial[r]), scaled, total[r]);
    }
  }
  for (std::size_t r = 0; r < R; ++r) total[r] = add_outliers(total[r], tiles, in, row + r);
  store_block<R>(total, block, weights.outputs(), row, out);
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

template <std::size_t Most, typename Group, typename Body>
inline void for_blocks(const Linear& weights, RowRange tiles, RowRange rows, std::size_t next,
                       Body&& body) {
  Ahead<Group> ahead(weights, next, (rows.end - rows.begin + Most - 1) / Most);
  for_row_blocks<Most>(rows, [&]<std::size_t R>(std::size_t row) {
    for (std::size_t tile = tiles.begin; tile < tiles.end; tile += kBlockTiles) {
      const RowRange block{tile, std::min(tile + kBlockTiles, tiles.end)};
      body.template operator()<R>(block, row, ahead);
    }
  });
}

void linear_quantized(const Linear& weights, RowRange tiles, const QuantizedRows& in,
                      RowRange rows, const LinearOutput& out, std::size_t next) {
  if (weights.kind() == WeightKind::int4) {
    for_blocks<kInt4Rows, Int4Group>(
        weights, tiles, rows, next,
        [&]<std::size_t R>(RowRange block, std::size_t row, Ahead<Int4Group>& ahead) {
          int4_rows<R>(weights, block, in, row, out, ahead);
        });
  } else {
    for_blocks<kInt8Rows, Int8Group>(
        weights, tiles, rows, next,
        [&]<std::size_t R>(RowRange block, std::size_t row, Ahead<Int8Group>& ahead) {
          int8_rows<R>(weights, block, in, row, out, ahead);
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
