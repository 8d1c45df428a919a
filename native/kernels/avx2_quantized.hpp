// Quantised products of 256-bit registers; part of avx2.cpp.
//
// Sixteen columns at a time, so that each four of inputs is fetched once for two products. Few rows
// unpack weights as they meet them; many share a panel of unpacked ones, which stays in the
// first-level cache.
//
// Legend: R rows and C tiles handled together.

inline constexpr std::size_t kWideTiles = 2;
template <typename Group>  // whose sums of a group fill the registers
inline constexpr std::size_t kPanelRows = kIsWhole<Group> ? 6 : 4;
inline constexpr std::size_t kFewRows = 3;  // for which a panel would not pay
inline constexpr std::size_t kFewSums = 4;  // which leave registers for their totals

alignas(32) constexpr auto kOnes = [] {
  std::array<std::int16_t, 16> ones;
  ones.fill(1);
  return ones;
}();

// Calls body(0) to body(N - 1), with constants that are known before GCC decides which arrays it
// keeps in registers; with loops, unrolled later, it would write every sum to memory.
template <std::size_t N, typename Body>
[[gnu::always_inline]] inline void repeat(Body&& body) {
  [&]<std::size_t... I>(std::index_sequence<I...>) __attribute__((always_inline)) {
    (body(std::integral_constant<std::size_t, I>{}), ...);
  }(std::make_index_sequence<N>{});
}
#define YEARLING_INLINE __attribute__((always_inline))

// A product and its addition are one statement: of intrinsics GCC 12 makes all products of a group
// first, writes them to memory and adds them from there, at half the speed.
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
// total += values · factors, by pairs.
inline void add_weighted(__m256i& total, __m256i values, __m256i factors) {
  total = _mm256_add_epi32(total, _mm256_madd_epi16(values, factors));
}
// The same with a total and factors that stay in memory: a group's sums want the registers.
inline void add_weighted_there(__m256i& total, __m256i values, const __m256i& factors) {
  asm("vpmaddwd %2, %1, %1\n\tvpaddd %0, %1, %1\n\tvmovdqa %1, %0"
      : "+m"(total), "+x"(values)
      : "m"(factors));
}
inline void add_weighted_there(__m256i& total, __m256i values, const __m256i& factors,
                               __m256i others, const __m256i& other_factors) {
  __m256i products;
  asm("vpmaddwd %4, %3, %2\n\tvpmaddwd %5, %1, %1\n\tvpaddd %2, %1, %1\n\t"
      "vpaddd %0, %1, %1\n\tvmovdqa %1, %0"
      : "+m"(total), "+x"(values), "=&x"(products)
      : "x"(others), "m"(other_factors), "m"(factors));
}

inline __m256i four_inputs(const void* codes) {
  __m256i four;
  asm("vpbroadcastd %1, %0" : "=x"(four) : "m"(*static_cast<const std::int32_t*>(codes)));
  return four;
}
// By this a pair (slope, centre) gives centre - 8 · slope.
inline constexpr std::int32_t kMinimumOfFactors = 0x20000 - kInt4Centre;

// Where sums find their weights: unpacked on the way, or beforehand.
template <typename Group, std::size_t C>
struct Packed {
  const Group* tiles[C];
  Packed at(std::size_t group) const {
    Packed moved = *this;
    for (const Group*& tile : moved.tiles) tile += group;
    return moved;
  }
  __m256i four(std::size_t c, std::size_t group, std::size_t four) const {
    const auto* codes = tiles[c][group].codes;
    if constexpr (!kIsWhole<Group>) return load_codes(codes + four * 32);
    const __m256i both = load_codes(codes + four / 2 * 32), mask = _mm256_set1_epi8(15);
    return _mm256_and_si256(four % 2 ? _mm256_srli_epi16(both, 4) : both, mask);
  }
  // Of an int4 group, each column's slope twice.
  __m256i slopes(std::size_t c, std::size_t group) const {
    const __m256i factors = load_codes(tiles[c][group].factors);
    return _mm256_blend_epi16(factors, _mm256_slli_epi32(factors, 16), 0b10101010);
  }
  // Of a group and the one behind it, if there is one, what weights of code 0 are.
  __m256i minima(std::size_t c, std::size_t group, bool is_last) const {
    const auto minima_of = [&](std::size_t at) {
      return _mm256_madd_epi16(load_codes(tiles[c][at].factors),
                               _mm256_set1_epi32(kMinimumOfFactors));
    };
    const __m256i next = is_last ? __m256i{} : _mm256_slli_epi32(minima_of(group + 1), 16);
    return _mm256_blend_epi16(minima_of(group), next, 0b10101010);
  }
  __m256i scales(std::size_t c, std::size_t group) const {
    return _mm256_castps_si256(load_half(tiles[c][group].scale));
  }
};

template <typename Group, std::size_t C>
struct Panel {
  __m256i unpacked[kPanelGroups * kGroupFours][C];
  __m256i scaling[kPanelGroups][C];  // slopes or scales
  __m256i least[kPanelGroups / 2][C];

  void fill(const Packed<Group, C>& from, std::size_t groups) {
    for (std::size_t g = 0; g < groups; ++g) {
      for (std::size_t c = 0; c < C; ++c) {
        repeat<kGroupFours>([&](auto four) YEARLING_INLINE {
          unpacked[g * kGroupFours + four][c] = from.four(c, g, four);
        });
        if constexpr (kIsWhole<Group>) {
          scaling[g][c] = from.slopes(c, g);
          if (g % 2 == 0) least[g / 2][c] = from.minima(c, g, g + 1 == groups);
        } else {
          scaling[g][c] = from.scales(c, g);
        }
      }
    }
  }
  __m256i four(std::size_t c, std::size_t group, std::size_t four) const {
    return unpacked[group * kGroupFours + four][c];
  }
  const __m256i& slopes(std::size_t c, std::size_t group) const { return scaling[group][c]; }
  const __m256i& scales(std::size_t c, std::size_t group) const { return scaling[group][c]; }
  const __m256i& minima(std::size_t c, std::size_t group, bool) const {
    return least[group / 2][c];
  }
};

// Sums of 16 bits, two lanes per column, hold a group whole: 32 products of at most 15 · 127 in two
// lanes are at most 30,480. An even group adds its minima and those of the group behind it.
template <std::size_t R, std::size_t C, typename Weights>
[[gnu::always_inline]] inline void add_group(__m256i (&total)[R][C], const Weights& weights,
                                             std::size_t group, std::size_t groups,
                                             const QuantizedGroup* inputs, std::size_t stride) {
  __m256i sums[R][C];
  repeat<kGroupFours>([&](auto four) YEARLING_INLINE {
    __m256i there[C];
    repeat<C>([&](auto c) YEARLING_INLINE { there[c] = weights.four(c, group, four); });
    repeat<R>([&](auto r) YEARLING_INLINE {
      const __m256i here = four_inputs(inputs[r * stride].codes + four * 4);
      repeat<C>([&](auto c) YEARLING_INLINE {
        if (four == 0) sums[r][c] = products_of(there[c], here);
        else add_products(sums[r][c], there[c], here);
      });
    });
  });
  constexpr bool kFitsRegisters = R * C <= kFewSums;
  if (group % 2) {
    repeat<R * C>([&](auto i) YEARLING_INLINE {
      constexpr std::size_t r = i / C, c = i % C;
      if constexpr (kFitsRegisters) add_weighted(total[r][c], sums[r][c], weights.slopes(c, group));
      else add_weighted_there(total[r][c], sums[r][c], weights.slopes(c, group));
    });
    return;
  }
  const bool is_last = group + 1 == groups;
  repeat<R>([&](auto r) YEARLING_INLINE {
    const __m256i both = four_inputs(&inputs[r * stride].start);
    repeat<C>([&](auto c) YEARLING_INLINE {
      if constexpr (kFitsRegisters) {
        add_weighted(total[r][c], sums[r][c], weights.slopes(c, group));
        add_weighted(total[r][c], both, weights.minima(c, group, is_last));
      } else {
        add_weighted_there(total[r][c], sums[r][c], weights.slopes(c, group), both,
                           weights.minima(c, group, is_last));
      }
    });
  });
}

template <std::size_t R, std::size_t C, typename Weights>
[[gnu::always_inline]] inline void add_group(Lanes (&total)[R][C], const Weights& weights,
                                             std::size_t group, std::size_t,
                                             const QuantizedGroup* inputs, std::size_t stride) {
  __m256i sums[R][C] = {};
  repeat<kGroupFours>([&](auto four) YEARLING_INLINE {
    __m256i there[C], magnitudes[C];
    repeat<C>([&](auto c) YEARLING_INLINE {
      there[c] = weights.four(c, group, four);
      magnitudes[c] = _mm256_abs_epi8(there[c]);
    });
    repeat<R>([&](auto r) YEARLING_INLINE {
      const __m256i here = four_inputs(inputs[r * stride].codes + four * 4);
      repeat<C>([&](auto c) YEARLING_INLINE {
        add_signed_products(sums[r][c], magnitudes[c], there[c], here);
      });
    });
  });
  repeat<C>([&](auto c) YEARLING_INLINE {
    const Lanes scale = _mm256_castsi256_ps(weights.scales(c, group));
    repeat<R>([&](auto r) YEARLING_INLINE {
      total[r][c] = fma(_mm256_cvtepi32_ps(sums[r][c]), scale, total[r][c]);
    });
  });
}

template <typename Weights>
inline void add_high(__m256i& total, const Weights& weights, std::size_t c, std::size_t four,
                     const HighCodes& high, std::size_t groups) {
  const std::size_t group = four / kGroupFours, first = group / 2 * 2;
  const __m256i there = weights.four(c, group, four % kGroupFours);
  add_weighted(total, products_of(there, four_inputs(high.codes)), weights.slopes(c, group));
  add_weighted(total, four_inputs(&high.start), weights.minima(c, first, first + 1 == groups));
}
template <typename Weights>
inline void add_high(Lanes& total, const Weights& weights, std::size_t c, std::size_t four,
                     const HighCodes& high, std::size_t) {
  const __m256i there = weights.four(c, four / kGroupFours, four % kGroupFours);
  __m256i sum = {};
  add_signed_products(sum, _mm256_abs_epi8(there), there, four_inputs(high.codes));
  total = fma(_mm256_cvtepi32_ps(sum),
              _mm256_castsi256_ps(weights.scales(c, four / kGroupFours)), total);
}

inline Lanes to_lanes(Lanes sum) { return sum; }
inline Lanes to_lanes(__m256i sum) { return _mm256_cvtepi32_ps(sum); }
inline Lanes join_sums(Lanes a, Lanes b) { return a + b; }
inline __m256i join_sums(__m256i a, __m256i b) { return _mm256_add_epi32(a, b); }

template <typename Group, std::size_t C, typename Weights>
inline void add_highs(Lanes (&total)[C], const Weights& weights, const PanelHighs& highs,
                      std::size_t groups) {
  // In turn to two sums: one alone would wait for each addition.
  PanelSum<Group> sums[2][C] = {};
  const auto add = [&](std::size_t i, PanelSum<Group> (&sum)[C]) {
#pragma GCC unroll 16
    for (std::size_t c = 0; c < C; ++c) {
      add_high(sum[c], weights, c, highs.fours[i], highs.codes[i], groups);
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
  PanelSum<Group> sum[R][C];
  repeat<R>([&](auto r) YEARLING_INLINE {
    repeat<C>([&](auto c) YEARLING_INLINE { sum[r][c] = PanelSum<Group>{}; });
    // The first few, which come while low codes are multiplied.
    const PanelHighs& highs = in.highs_of(row + r, panel);
    __builtin_prefetch(&highs);
    __builtin_prefetch(reinterpret_cast<const std::byte*>(&highs) + 64);
    __builtin_prefetch(highs.fours);
  });
  for (std::size_t g = 0; g < groups; ++g) {
    meanwhile();
    add_group<R, C>(sum, weights, g, groups, inputs + g, in.row_groups);
  }
  for (std::size_t r = 0; r < R; ++r) {
    for (std::size_t c = 0; c < C; ++c) {
      const Lanes here = to_lanes(sum[r][c]);
      total[r][c] = panel == 0 ? here : total[r][c] + here;
    }
  }
  for (std::size_t r = 0; r < R; ++r) {
    add_highs<Group, C>(total[r], weights, in.highs_of(row + r, panel), groups);
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
    with_row_count<kFewRows>(
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
  const std::size_t blocks = (rows.end - rows.begin + kPanelRows<Group> - 1) / kPanelRows<Group>;
  Ahead ahead(weights, next, blocks);
  Panel<Group, C> unpacked;
  Lanes totals[kMostRows][C];
  for (std::size_t tile = tiles.begin; tile < tiles.end; tile += C) {
    const auto packed = tiles_at<Group, C>(weights, tile, tiles.end);
    for (std::size_t panel = 0; panel < in.panels(); ++panel) {
      const std::size_t first = panel * kPanelGroups;
      unpacked.fill(packed.at(first), std::min(in.row_groups - first, kPanelGroups));
      for_row_blocks<kPanelRows<Group>>(rows, [&]<std::size_t R>(std::size_t row) {
        auto* const total = totals + (row - rows.begin);
        for (std::size_t r = row; r < row + R; ++r) {  // results' places have long left the cache
          __builtin_prefetch(out.values + r * out.stride + tile * kTile, 1);
        }
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
  if (rows.end - rows.begin <= kFewRows) {
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

#undef YEARLING_INLINE
