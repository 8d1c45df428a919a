// Quantised products, eight columns at a time. Included between body_linear.hpp and body.hpp, by
// files that define besides Nibbles, Partial and Wide with their dot products.

// Moves what the `beyond` codes of a group have too much for 8 bits to high codes.
inline HighCodes* split_codes(QuantizedGroup& group, const std::int16_t* codes,
                              std::uint32_t beyond, std::size_t first_four, HighCodes* highs) {
  HighCodes* last = nullptr;
  for (; beyond != 0; beyond &= beyond - 1) {
    const auto i = static_cast<std::size_t>(std::countr_zero(beyond));
    const auto four = static_cast<std::uint16_t>(first_four + i / 4);
    if (!last || last->four != four) {
      last = highs++;
      *last = {four, 0, {}};
    }
    const auto high = static_cast<int>(
        std::nearbyint(static_cast<float>(codes[i]) * (1.0f / kHighUnit)));
    last->codes[i % 4] = static_cast<std::int8_t>(high);
    last->sum = static_cast<std::int16_t>(last->sum + high);
    group.codes[i] = static_cast<std::int8_t>(codes[i] - kHighUnit * high);
    group.offset = offset_of(static_cast<std::uint32_t>(high * -kHighUnit), group.offset);
  }
  return highs;
}

// Codes of a group's values times `inverse`; returns the end of its high codes.
inline HighCodes* quantize_group(const float* values, float inverse, QuantizedGroup& to,
                                 std::size_t first_four, HighCodes* highs) {
  std::int16_t codes[kGroup];
  std::int32_t sum;
  const std::uint32_t beyond = round_codes(values, inverse, codes, to.codes, sum);
  to.sum = static_cast<float>(sum);
  to.offset = offset_of(static_cast<std::uint32_t>(sum), 0);
  return beyond ? split_codes(to, codes, beyond, first_four, highs) : highs;
}

inline Lanes scales_of(const Int4Group& group) { return load_half(group.scale); }
inline Lanes scales_of(const Int8Group& group) { return load_half(group.scale); }

inline Lanes products_of(const Int4Group& group, const HighCodes& high) {
  const std::size_t four = high.four % kGroupFours;
  std::int8_t inputs[8] = {};
  std::copy_n(high.codes, 4, inputs + four % 2 * 4);
  Partial sum = {};
  add_products(sum, unpack(load_codes(group.codes + four / 2 * 32)), inputs);
  return to_columns(sum);
}
inline Lanes products_of(const Int8Group& group, const HighCodes& high) {
  Wide sum = {};
  add_signed_products(sum, load_codes(group.codes + high.four % kGroupFours * 32), high.codes);
  return to_columns(sum);
}

template <typename Group>
inline Lanes add_highs(Lanes total, const Group* groups, const QuantizedRows& in, std::size_t row,
                       std::size_t panel) {
  Lanes sums[2] = {};  // in turn
  const HighCodes* highs = in.highs_of(row, panel);
  for (std::uint32_t i = 0; i < in.num_highs_of(row, panel); ++i) {
    const Group& group = groups[highs[i].four / kGroupFours];
    sums[i % 2] = fma(products_of(group, highs[i]), scales_of(group), sums[i % 2]);
  }
  return fma(sums[0] + sums[1], broadcast(static_cast<float>(kHighUnit)), total);
}

template <std::size_t R>
inline void add_group(Lanes (&total)[R], const Int4Group& group, const QuantizedGroup* inputs,
                      std::size_t stride) {
  Partial partial[R] = {};
  for (std::size_t load = 0; load < 4; ++load) {
    const Nibbles nibbles = unpack(load_codes(group.codes + load * 32));
    for (std::size_t r = 0; r < R; ++r) {
      add_products(partial[r], nibbles, inputs[r * stride].codes + load * 8);
    }
  }
  const Lanes scale = scales_of(group), minimum = load_half(group.minimum);
  for (std::size_t r = 0; r < R; ++r) {
    total[r] = fma(to_columns(partial[r]), scale, total[r]);
    total[r] = fma(minimum, broadcast(inputs[r * stride].sum), total[r]);
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
  const Lanes scale = scales_of(group);
  for (std::size_t r = 0; r < R; ++r) total[r] = fma(to_columns(partial[r]), scale, total[r]);
}

// R rows × one tile.
template <typename Group, std::size_t R>
void quantized_block(const Linear& weights, std::size_t tile, const QuantizedRows& in,
                     std::size_t row, const LinearOutput& out, Ahead& ahead) {
  const auto* groups = reinterpret_cast<const Group*>(weights.tile(tile));
  const QuantizedGroup* inputs = in.row(row);
  Lanes total[R] = {};
  for (std::size_t panel = 0; panel < in.panels(); ++panel) {
    const std::size_t first = panel * kPanelGroups;
    const std::size_t end = std::min(in.row_groups, first + kPanelGroups);
    for (std::size_t g = first; g < end; ++g) {
      ahead.step(sizeof(Group));
      add_group<R>(total, groups[g], inputs + g, in.row_groups);
    }
    for (std::size_t r = 0; r < R; ++r) {
      total[r] = add_highs(total[r], groups + first, in, row + r, panel);
    }
  }
  for (std::size_t r = 0; r < R; ++r) total[r] = total[r] * broadcast(in.scales[row + r]);
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
