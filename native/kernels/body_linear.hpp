// Matrix products of floating-point weights, and what those of quantised ones share. Included like
// body.hpp, before it.

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
// eight rows are 4 + 4, not 6 + 2, because a block of two fetches weights for little use.
template <std::size_t Most, typename Body>
inline void for_row_blocks(RowRange rows, Body&& body) {
  for (std::size_t row = rows.begin; row < rows.end;) {
    const std::size_t left = rows.end - row, blocks = (left + Most - 1) / Most;
    const std::size_t count = (left + blocks - 1) / blocks;
    with_row_count<Most>(count, row, body);
    row += count;
  }
}

// ---- linear, quantised -------------------------------------------------------------------

// Four sums at a time: one alone would wait for each of its additions.
inline float sum_of_squares(const float* values, std::size_t count) {
  Lanes squares[4] = {};
  std::size_t i = 0;
  const auto add = [&](std::size_t chain) {
    const Lanes x = load(values + i + chain * kLanes);
    squares[chain] = fma(x, x, squares[chain]);
  };
  for (; i + 4 * kLanes <= count; i += 4 * kLanes) {
    for (std::size_t chain = 0; chain < 4; ++chain) add(chain);
  }
  for (; i + kLanes <= count; i += kLanes) add(0);
  float total = sum_lanes((squares[0] + squares[1]) + (squares[2] + squares[3]));
  for (; i < count; ++i) total += values[i] * values[i];
  return total;
}

// Sums of int4 weights stay whole over a panel; those of int8 are too large for that. A file of an
// instruction set says in what it keeps the ones and the others.
template <typename Group>
inline constexpr bool kIsWhole = std::is_same_v<Group, Int4Group>;
template <typename Group>
struct PanelSumOf {
  using Type = RoundedSum;
};
template <>
struct PanelSumOf<Int4Group> {
  using Type = WholeSum;
};
template <typename Group>
using PanelSum = typename PanelSumOf<Group>::Type;

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

// Asks for the weights that this thread will probably meet next, evenly while it works on those of
// now, which it passes over several times: few rows wait for memory more than for arithmetic.
class Ahead {
 public:
  Ahead(const Linear& weights, std::size_t tile, std::size_t passes)
      : next_(reinterpret_cast<std::uintptr_t>(weights.tile(0)) + tile * weights.tile_bytes()),
        passes_(passes) {}
  void step(std::size_t bytes) {
    constexpr std::size_t kLine = 64;
    for (met_ += bytes; met_ >= kLine * passes_; met_ -= kLine * passes_, next_ += kLine) {
      __builtin_prefetch(reinterpret_cast<const void*>(next_));
    }
  }

 private:
  std::uintptr_t next_;  // may lie beyond the weights: asking for it is harmless
  std::size_t passes_, met_ = 0;
};

inline constexpr std::size_t kFloatRows = 6;

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
