// Quantised products, eight columns at a time, for processors without products of their own.
// Included between body_codes.hpp and body.hpp, by files that define Columns (eight integers), and
// Nibbles, Partial and Wide with their dot products.

inline Lanes to_lanes(Lanes sums) { return sums; }

template <std::size_t R>
inline void add_group(Columns (&total)[R], const Int4Group& group, const QuantizedGroup* inputs,
                      std::size_t stride) {
  Partial partial[R] = {};
  for (std::size_t load = 0; load < 4; ++load) {
    const Nibbles nibbles = unpack(load_codes(group.codes + load * 32));
    for (std::size_t r = 0; r < R; ++r) {
      add_products(partial[r], nibbles, inputs[r * stride].codes + load * 8);
    }
  }
  for (std::size_t r = 0; r < R; ++r) {
    add_weighted(total[r], to_columns(partial[r]), inputs[r * stride].start, group.factors);
  }
}

template <std::size_t R>
inline void add_group(Lanes (&total)[R], const Int8Group& group, const QuantizedGroup* inputs,
                      std::size_t stride) {
  Wide partial[R] = {};
  for (std::size_t load = 0; load < 8; ++load) {
    const Codes there = load_codes(group.codes + load * 32);
    for (std::size_t r = 0; r < R; ++r) {
      add_signed_products(partial[r], there, inputs[r * stride].codes + load * 4);
    }
  }
  const Lanes scale = load_half(group.scale);
  for (std::size_t r = 0; r < R; ++r) {
    total[r] = fma(to_lanes(to_columns(partial[r])), scale, total[r]);
  }
}

inline void add_high(Columns& total, const Int4Group& group, std::size_t four,
                     const HighCodes& high) {
  std::int8_t inputs[8] = {};
  std::copy_n(high.codes, 4, inputs + four % 2 * 4);
  Partial sum = {};
  add_products(sum, unpack(load_codes(group.codes + four / 2 * 32)), inputs);
  add_weighted(total, to_columns(sum), high.start, group.factors);
}
inline void add_high(Lanes& total, const Int8Group& group, std::size_t four,
                     const HighCodes& high) {
  Wide sum = {};
  add_signed_products(sum, load_codes(group.codes + four * 32), high.codes);
  total = fma(to_lanes(to_columns(sum)), load_half(group.scale), total);
}

// R rows × one panel of a tile.
template <typename Group, std::size_t R>
inline void add_panel(Lanes (&total)[R], const Group* groups, const QuantizedRows& in,
                      std::size_t row, std::size_t panel, Ahead& ahead) {
  const QuantizedGroup* inputs = in.row(row) + panel * kPanelGroups;
  const std::size_t count = std::min(in.row_groups - panel * kPanelGroups, kPanelGroups);
  PanelSum<Group> sums[R] = {};
  for (std::size_t g = 0; g < count; ++g) {
    ahead.step(sizeof(Group));
    add_group<R>(sums, groups[g], inputs + g, in.row_groups);
  }
  for (std::size_t r = 0; r < R; ++r) {
    const PanelHighs& highs = in.highs_of(row + r, panel);
    PanelSum<Group> high_sums[2] = {};  // in turn: one alone would wait for each addition
    for (std::size_t i = 0; i < highs.count; ++i) {
      const std::size_t four = highs.fours[i];
      add_high(high_sums[i % 2], groups[four / kGroupFours], four % kGroupFours, highs.codes[i]);
    }
    total[r] = total[r] + to_lanes(sums[r]);
    total[r] = fma(to_lanes(high_sums[0] + high_sums[1]),
                   broadcast(static_cast<float>(kHighUnit)), total[r]);
  }
}

// R rows × one tile.
template <typename Group, std::size_t R>
void quantized_block(const Linear& weights, std::size_t tile, const QuantizedRows& in,
                     std::size_t row, const LinearOutput& out, Ahead& ahead) {
  const auto* groups = reinterpret_cast<const Group*>(weights.tile(tile));
  Lanes total[R] = {};
  for (std::size_t panel = 0; panel < in.panels(); ++panel) {
    add_panel<Group, R>(total, groups + panel * kPanelGroups, in, row, panel, ahead);
  }
  for (std::size_t r = 0; r < R; ++r) {
    if constexpr (kIsWhole<Group>) total[r] = total[r] * load(weights.units(tile));
    total[r] = total[r] * broadcast(in.scales[row + r]);
  }
  store_tile<R>(total, tile, weights.outputs(), row, out);
}

template <typename Group, std::size_t Most>
void quantized_blocks(const Linear& weights, RowRange tiles, const QuantizedRows& in,
                      RowRange rows, const LinearOutput& out, std::size_t next) {
  Ahead ahead(weights, next, (rows.end - rows.begin + Most - 1) / Most);
  for_row_blocks<Most>(rows, [&]<std::size_t R>(std::size_t row) {
    for (std::size_t tile = tiles.begin; tile < tiles.end; ++tile) {
      quantized_block<Group, R>(weights, tile, in, row, out, ahead);
    }
  });
}

void linear_quantized(const Linear& weights, RowRange tiles, const QuantizedRows& in,
                      RowRange rows, const LinearOutput& out, std::size_t next) {
  if (weights.kind() == WeightKind::int4) {
    quantized_blocks<Int4Group, kInt4Rows>(weights, tiles, in, rows, out, next);
  } else {
    quantized_blocks<Int8Group, kInt8Rows>(weights, tiles, in, rows, out, next);
  }
}
