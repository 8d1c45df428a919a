// Quantised products of 256-bit registers; part of avx2.cpp.
//
// Sixteen columns at a time, so that each four of inputs is fetched once for two products. Few rows
// unpack weights as they meet them; many share a panel of unpacked ones, which stays in the
// first-level cache.
//
// Legend: R rows and C tiles handled together.

inline constexpr std::size_t kWideTiles = 2;
inline constexpr std::size_t kPanelRows = 6;  // whose sums of a group fill the registers

alignas(32) constexpr auto kOnes = [] {
  std::array<std::int16_t, 16> ones;
  ones.fill(1);
  return ones;
}();

// The bits of an assembler's two instructions stay together: with intrinsics GCC 12 makes all
// products of a group first, writes them to memory, and adds them from there, at a third of the
// speed.
inline __m256i products_of(__m256i weights, __m256i inputs) {
  __m256i products;
  asm("vpmaddubsw %2, %1, %0" : "=x"(products) : "x"(weights), "x"(inputs));
  return products;
}
inline void add_products(__m256i& sum, __m256i weights, __m256i inputs) {
  __m256i products;
  asm("vpmaddubsw %3, %2, %1\n\tvpaddw %1, %0, %0"
      : "+x"(sum), "=&x"(products)
      : "x"(weights), "x"(inputs));
}
inline void add_signed_products(__m256i& sum, __m256i magnitudes, __m256i weights,
                                __m256i inputs) {
  __m256i products;
  asm("vpsignb %3, %4, %1\n\tvpmaddubsw %1, %2, %1\n\tvpmaddwd %5, %1, %1\n\tvpaddd %1, %0, %0"
      : "+x"(sum), "=&x"(products)
      : "x"(magnitudes), "x"(weights), "x"(inputs), "m"(kOnes));
}
inline void add_weighted(__m256i& total, __m256i values, __m256i factors) {
  total = _mm256_add_epi32(total, _mm256_madd_epi16(values, factors));
}

inline __m256i four_inputs(const void* codes) {
  __m256i four;
  asm("vpbroadcastd %1, %0" : "=x"(four) : "m"(*static_cast<const std::int32_t*>(codes)));
  return four;
}
// -8 · s and s in the halves of each lane, as factors want them, from start_of(s).
inline __m256i halves_of(const std::int32_t& start) {
  return _mm256_xor_si256(four_inputs(&start), _mm256_set1_epi32(kStartTooMuch));
}

// Where sums find their weights: unpacked on the way, or beforehand.
template <typename Group, std::size_t C>
struct Packed {
  const Group* tiles[C];
  Packed at(std::size_t group) const {
    Packed moved = *this;
    for (const Group*& tile : moved.tiles) tile += group;
    return moved;
  }
  __m256i four(std::size_t c, std::size_t four) const {
    const Group& group = tiles[c][four / kGroupFours];
    const std::size_t in_group = four % kGroupFours;
    if constexpr (!kIsWhole<Group>) return load_codes(group.codes + in_group * 32);
    const __m256i both = load_codes(group.codes + in_group / 2 * 32);
    const __m256i mask = _mm256_set1_epi8(15);
    return _mm256_and_si256(in_group % 2 ? _mm256_srli_epi16(both, 4) : both, mask);
  }
  __m256i factors(std::size_t c, std::size_t group) const {
    const Group& from = tiles[c][group];
    if constexpr (kIsWhole<Group>) return load_codes(from.factors);
    else return _mm256_castps_si256(load_half(from.scale));
  }
  __m256i slopes(std::size_t c, std::size_t group) const {
    return slopes_of(factors(c, group));
  }
  // Of pairs (slope, centre), (slope, slope).
  static __m256i slopes_of(__m256i factors) {
    return _mm256_blend_epi16(factors, _mm256_slli_epi32(factors, 16), 0b10101010);
  }
};

template <std::size_t C>
struct Panel {
  alignas(32) std::uint8_t unpacked[kPanelGroups * kGroupFours][C][32];
  alignas(32) std::int32_t scaling[kPanelGroups][C][2][kLanes];

  template <typename Group>
  void fill(const Packed<Group, C>& from, std::size_t groups) {
    for (std::size_t g = 0; g < groups; ++g) {
      for (std::size_t c = 0; c < C; ++c) {
        for (std::size_t four = 0; four < kGroupFours; ++four) {
          put(unpacked[g * kGroupFours + four][c], from.four(c, g * kGroupFours + four));
        }
        put(scaling[g][c][0], from.factors(c, g));
        if constexpr (kIsWhole<Group>) put(scaling[g][c][1], from.slopes(c, g));
      }
    }
  }
  __m256i four(std::size_t c, std::size_t four) const { return load_codes(unpacked[four][c]); }
  __m256i factors(std::size_t c, std::size_t group) const {
    return load_codes(scaling[group][c][0]);
  }
  __m256i slopes(std::size_t c, std::size_t group) const {
    return load_codes(scaling[group][c][1]);
  }

 private:
  static void put(void* to, __m256i x) { _mm256_store_si256(static_cast<__m256i*>(to), x); }
};

// Sums of 16 bits, two lanes per column, hold a whole group: 32 products of at most 15 · 127 in two
// lanes are at most 30,480.
template <std::size_t R, std::size_t C, typename Weights>
[[gnu::always_inline]] inline void add_group(__m256i (&total)[R][C], const Weights& weights,
                                             std::size_t group, const QuantizedGroup* inputs,
                                             std::size_t stride) {
  __m256i sums[R][C];
#pragma GCC unroll 16
  for (std::size_t four = 0; four < kGroupFours; ++four) {
    __m256i there[C];
#pragma GCC unroll 16
    for (std::size_t c = 0; c < C; ++c) there[c] = weights.four(c, group * kGroupFours + four);
#pragma GCC unroll 16
    for (std::size_t r = 0; r < R; ++r) {
      const __m256i here = four_inputs(inputs[r * stride].codes + four * 4);
#pragma GCC unroll 16
      for (std::size_t c = 0; c < C; ++c) {
        if (four == 0) sums[r][c] = products_of(there[c], here);
        else add_products(sums[r][c], there[c], here);
      }
    }
  }
#pragma GCC unroll 16
  for (std::size_t r = 0; r < R; ++r) {
    const __m256i halves = halves_of(inputs[r * stride].start);
    asm("" : "+m"(total[r]));
#pragma GCC unroll 16
    for (std::size_t c = 0; c < C; ++c) {
      add_weighted(total[r][c], sums[r][c], weights.slopes(c, group));
      add_weighted(total[r][c], halves, weights.factors(c, group));
    }
  }
}

template <std::size_t R, std::size_t C, typename Weights>
[[gnu::always_inline]] inline void add_group(Lanes (&total)[R][C], const Weights& weights,
                                             std::size_t group, const QuantizedGroup* inputs,
                                             std::size_t stride) {
  __m256i sums[R][C] = {};
#pragma GCC unroll 16
  for (std::size_t four = 0; four < kGroupFours; ++four) {
    __m256i there[C], magnitudes[C];
#pragma GCC unroll 16
    for (std::size_t c = 0; c < C; ++c) {
      there[c] = weights.four(c, group * kGroupFours + four);
      magnitudes[c] = _mm256_abs_epi8(there[c]);
    }
#pragma GCC unroll 16
    for (std::size_t r = 0; r < R; ++r) {
      const __m256i here = four_inputs(inputs[r * stride].codes + four * 4);
#pragma GCC unroll 16
      for (std::size_t c = 0; c < C; ++c) {
        add_signed_products(sums[r][c], magnitudes[c], there[c], here);
      }
    }
  }
#pragma GCC unroll 16
  for (std::size_t c = 0; c < C; ++c) {
    const Lanes scale = _mm256_castsi256_ps(weights.factors(c, group));
#pragma GCC unroll 16
    for (std::size_t r = 0; r < R; ++r) {
      total[r][c] = fma(_mm256_cvtepi32_ps(sums[r][c]), scale, total[r][c]);
    }
  }
}

template <typename Weights>
inline void add_high(__m256i& total, const Weights& weights, std::size_t c, std::size_t four,
                     __m256i codes, const std::int32_t& start) {
  const std::size_t group = four / kGroupFours;
  add_weighted(total, products_of(weights.four(c, four), codes), weights.slopes(c, group));
  add_weighted(total, halves_of(start), weights.factors(c, group));
}
template <typename Weights>
inline void add_high(Lanes& total, const Weights& weights, std::size_t c, std::size_t four,
                     __m256i codes, std::int32_t) {
  const __m256i there = weights.four(c, four);
  __m256i sum = {};
  add_signed_products(sum, _mm256_abs_epi8(there), there, codes);
  total = fma(_mm256_cvtepi32_ps(sum),
              _mm256_castsi256_ps(weights.factors(c, four / kGroupFours)), total);
}

inline Lanes to_lanes(Lanes sum) { return sum; }
inline Lanes to_lanes(__m256i sum) { return _mm256_cvtepi32_ps(sum); }
inline Lanes join_sums(Lanes a, Lanes b) { return a + b; }
inline __m256i join_sums(__m256i a, __m256i b) { return _mm256_add_epi32(a, b); }

template <typename Group, std::size_t C, typename Weights>
inline void add_highs(Lanes (&total)[C], const Weights& weights, const PanelHighs& highs) {
  // In turn to two sums: one alone would wait for each addition.
  PanelSum<Group> sums[2][C] = {};
  const auto add = [&](std::size_t i, PanelSum<Group> (&sum)[C]) {
    const HighCodes& high = highs.codes[i];
    const __m256i codes = four_inputs(high.codes);
#pragma GCC unroll 16
    for (std::size_t c = 0; c < C; ++c) {
      add_high(sum[c], weights, c, highs.fours[i], codes, high.start);
    }
  };
  std::size_t i = 0;
  for (; i + 2 <= highs.count; i += 2) {
    add(i, sums[0]);
    add(i + 1, sums[1]);
  }
  if (i < highs.count) add(i, sums[0]);
  const Lanes unit = broadcast(static_cast<float>(kHighUnit));
#pragma GCC unroll 16
  for (std::size_t c = 0; c < C; ++c) {
    total[c] = fma(to_lanes(join_sums(sums[0][c], sums[1][c])), unit, total[c]);
  }
}

// Not inlined: GCC keeps the sums in registers only where nothing else wants them.
template <typename Group, std::size_t R, std::size_t C, typename Weights, typename Meanwhile>
[[gnu::noinline]] void add_panel(Lanes (*total)[C], const Weights& weights,
                                 const QuantizedRows& in, std::size_t row, std::size_t panel,
                                 Meanwhile&& meanwhile) {
  const QuantizedGroup* inputs = in.row(row) + panel * kPanelGroups;
  const std::size_t groups = std::min(in.row_groups - panel * kPanelGroups, kPanelGroups);
  PanelSum<Group> sum[R][C] = {};
  for (std::size_t g = 0; g < groups; ++g) {
    meanwhile();
    add_group<R, C>(sum, weights, g, inputs + g, in.row_groups);
  }
  for (std::size_t r = 0; r < R; ++r) {
    for (std::size_t c = 0; c < C; ++c) {
      const Lanes here = to_lanes(sum[r][c]);
      total[r][c] = panel == 0 ? here : total[r][c] + here;
    }
  }
  for (std::size_t r = 0; r < R; ++r) {
    add_highs<Group, C>(total[r], weights, in.highs_of(row + r, panel));
  }
}

// Tiles [tile, end) of the output, of which the first C are at hand.
template <typename Group, std::size_t R, std::size_t C>
inline void store_rows(const Lanes (*total)[C], const Linear& weights, std::size_t tile,
                       std::size_t end, const QuantizedRows& in, std::size_t row,
                       const LinearOutput& out) {
  for (std::size_t c = 0; c < C && tile + c < end; ++c) {
    Lanes results[R];
    for (std::size_t r = 0; r < R; ++r) {
      results[r] = total[r][c];
      if constexpr (kIsWhole<Group>) results[r] = results[r] * load(weights.units(tile + c));
      results[r] = results[r] * broadcast(in.scales[row + r]);
    }
    store_tile<R>(results, tile + c, weights.outputs(), row, out);
  }
}

// The groups of C tiles; those that reach beyond `end` repeat the first.
template <typename Group, std::size_t C>
inline Packed<Group, C> tiles_at(const Linear& weights, std::size_t tile, std::size_t end) {
  Packed<Group, C> packed;
  for (std::size_t c = 0; c < C; ++c) {
    packed.tiles[c] =
        reinterpret_cast<const Group*>(weights.tile(tile + c < end ? tile + c : tile));
  }
  return packed;
}

template <typename Group>
void few_rows(const Linear& weights, RowRange tiles, const QuantizedRows& in, RowRange rows,
              const LinearOutput& out, std::size_t next) {
  constexpr std::size_t C = kWideTiles;
  Ahead ahead(weights, next, 1);
  for (std::size_t tile = tiles.begin; tile < tiles.end; tile += C) {
    const auto packed = tiles_at<Group, C>(weights, tile, tiles.end);
    with_row_count<kPanelRows>(
        rows.end - rows.begin, rows.begin, [&]<std::size_t R>(std::size_t row) {
          Lanes total[R][C];
          for (std::size_t panel = 0; panel < in.panels(); ++panel) {
            add_panel<Group, R, C>(total, packed.at(panel * kPanelGroups), in, row, panel,
                                   [&] { ahead.step(C * sizeof(Group)); });
          }
          store_rows<Group, R, C>(total, weights, tile, tiles.end, in, row, out);
        });
  }
}

template <typename Group>
void many_rows(const Linear& weights, RowRange tiles, const QuantizedRows& in, RowRange rows,
               const LinearOutput& out, std::size_t next) {
  constexpr std::size_t C = kWideTiles;
  const std::size_t blocks = (rows.end - rows.begin + kPanelRows - 1) / kPanelRows;
  Ahead ahead(weights, next, blocks);
  Panel<C> unpacked;
  Lanes totals[kMostRows][C];
  for (std::size_t tile = tiles.begin; tile < tiles.end; tile += C) {
    const auto packed = tiles_at<Group, C>(weights, tile, tiles.end);
    for (std::size_t panel = 0; panel < in.panels(); ++panel) {
      const std::size_t first = panel * kPanelGroups;
      unpacked.fill(packed.at(first), std::min(in.row_groups - first, kPanelGroups));
      for_row_blocks<kPanelRows>(rows, [&]<std::size_t R>(std::size_t row) {
        auto* const total = totals + (row - rows.begin);
        add_panel<Group, R, C>(total, unpacked, in, row, panel,
                               [&] { ahead.step(C * sizeof(Group)); });
        if (panel + 1 == in.panels()) {
          store_rows<Group, R, C>(total, weights, tile, tiles.end, in, row, out);
        }
      });
    }
  }
}

template <typename Group>
void quantized_rows(const Linear& weights, RowRange tiles, const QuantizedRows& in, RowRange rows,
                    const LinearOutput& out, std::size_t next) {
  if (rows.end - rows.begin <= kPanelRows) {
    return few_rows<Group>(weights, tiles, in, rows, out, next);
  }
  many_rows<Group>(weights, tiles, in, rows, out, next);
}

void linear_quantized(const Linear& weights, RowRange tiles, const QuantizedRows& in,
                      RowRange rows, const LinearOutput& out, std::size_t next) {
  if (weights.kind() == WeightKind::int4) {
    quantized_rows<Int4Group>(weights, tiles, in, rows, out, next);
  } else {
    quantized_rows<Int8Group>(weights, tiles, in, rows, out, next);
  }
}
