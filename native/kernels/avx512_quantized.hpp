// Quantised products of 512-bit registers with VNNI; part of avx512.cpp.
//
// Thirty-two columns at a time where the rows' sums fit into registers: each four of inputs is
// then fetched once for two products. Few rows unpack weights as they meet them; many share a
// panel of unpacked ones, which stays in the first-level cache.
//
// Legend: R rows and C times sixteen columns handled together.

inline constexpr std::size_t kColumns = 16;
inline constexpr std::size_t kWideBlocks = 2;     // of sixteen columns, for a panel
inline constexpr std::size_t kPanelRows = 6;      // whose sums fit, with two blocks
inline constexpr std::size_t kNarrowRows = 12;    // with one

// Codes of a group's values times `inverse`. Writes eight high codes whatever there is, for which a
// panel has room, and without a branch: whether a group has any is not to be foretold.
inline void quantize_group(const float* values, float inverse, QuantizedGroup& to,
                           std::size_t first_four, PanelHighs& highs) {
  const __m512 factor = _mm512_set1_ps(inverse), unit = _mm512_set1_ps(1.0f / kHighUnit);
  __m128i low_halves[2], high_halves[2];
  for (std::size_t half = 0; half < 2; ++half) {
    const __m512i codes = _mm512_cvtps_epi32(load_widest(values + half * 16) * factor);
    const __mmask16 beyond =
        _mm512_cmpgt_epi32_mask(_mm512_abs_epi32(codes), _mm512_set1_epi32(127));
    const __m512i high = _mm512_maskz_cvtps_epi32(beyond, _mm512_cvtepi32_ps(codes) * unit);
    // The last eight bits of codes - 254 · high.
    static_assert(kHighUnit == 256 - 2);
    low_halves[half] =
        _mm512_cvtepi32_epi8(_mm512_add_epi32(codes, _mm512_add_epi32(high, high)));
    high_halves[half] = _mm512_cvtepi32_epi8(high);
  }
  const __m256i low = _mm256_set_m128i(low_halves[1], low_halves[0]);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to.codes), low);
  const auto sums_of_fours = [](__m256i bytes) {
    return _mm256_dpbusd_epi32(_mm256_setzero_si256(), _mm256_set1_epi8(1), bytes);
  };
  const auto sum = static_cast<std::uint32_t>(
      _mm512_reduce_add_epi32(_mm512_zextsi256_si512(sums_of_fours(low))));
  to.start = start_of(sum);

  const __m256i bytes = _mm256_set_m128i(high_halves[1], high_halves[0]);
  const __m256i sums = sums_of_fours(bytes);
  const __m256i starts = _mm256_add_epi32(
      _mm256_sub_epi32(_mm256_slli_epi32(sums, 16),
                       _mm256_mullo_epi32(sums, _mm256_set1_epi32(kInt4Centre))),
      _mm256_set1_epi32(kStartTooMuch));
  const __m512i whole = _mm512_or_si512(_mm512_cvtepu32_epi64(bytes),
                                        _mm512_slli_epi64(_mm512_cvtepu32_epi64(starts), 32));
  const __m256i fours = _mm256_add_epi32(_mm256_set1_epi32(static_cast<int>(first_four)),
                                         _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  const __mmask8 used = _mm256_cmpneq_epi32_mask(bytes, _mm256_setzero_si256());
  _mm512_storeu_si512(highs.codes + highs.count, _mm512_maskz_compress_epi64(used, whole));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(highs.fours + highs.count),
                      _mm256_maskz_compress_epi32(used, fours));
  highs.count += static_cast<std::uint32_t>(std::popcount(used));
}
static_assert(sizeof(HighCodes) == 8);
static_assert(kGroupFours == 8);

// With the intrinsics GCC 12 copies the sum beside each product, which halves the rate.
inline void add_products(__m512i& sum, __m512i weights, __m512i inputs) {
  asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(weights), "v"(inputs));
}
inline __m512i four_inputs(const std::int8_t* codes) {
  std::int32_t four;
  std::memcpy(&four, codes, sizeof four);
  return _mm512_set1_epi32(four);
}

// Two tiles side by side. dpbusd wants one unsigned operand: 8-bit codes are moved up by 128, and
// their sums begin as much too low as that moves them.
template <typename Group>
struct Block {
  const Group *first, *second;
};
inline __m512i load_both(const void* first, const void* second) {
  return _mm512_inserti64x4(_mm512_castsi256_si512(load_codes(first)), load_codes(second), 1);
}
// What the sums of a group are multiplied by.
inline __m512i factors_of(const Block<Int4Group>& block, std::size_t group) {
  return load_both(block.first[group].factors, block.second[group].factors);
}
inline __m512i factors_of(const Block<Int8Group>& block, std::size_t group) {
  const auto eight = [](const std::uint16_t* from) {
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
  };
  return _mm512_castps_si512(_mm512_cvtph_ps(
      _mm256_inserti128_si256(_mm256_castsi128_si256(eight(block.first[group].scale)),
                              eight(block.second[group].scale), 1)));
}
// The codes of fours 2 · pair and 2 · pair + 1 of a group.
struct TwoFours {
  __m512i even, odd;
};
inline TwoFours unpack(const Block<Int4Group>& block, std::size_t group, std::size_t pair) {
  const __m512i mask = _mm512_set1_epi8(15);
  const __m512i both =
      load_both(block.first[group].codes + pair * 32, block.second[group].codes + pair * 32);
  return {_mm512_and_si512(both, mask), _mm512_and_si512(_mm512_srli_epi16(both, 4), mask)};
}
inline TwoFours unpack(const Block<Int8Group>& block, std::size_t group, std::size_t pair) {
  const auto moved = [&](std::size_t four) {
    return _mm512_xor_si512(
        load_both(block.first[group].codes + four * 32, block.second[group].codes + four * 32),
        _mm512_set1_epi8(-128));
  };
  return {moved(2 * pair), moved(2 * pair + 1)};
}

inline __m512 to_floats(__m512 sum) { return sum; }
inline __m512 to_floats(__m512i sum) { return _mm512_cvtepi32_ps(sum); }
inline __m512 join_sums(__m512 a, __m512 b) { return _mm512_add_ps(a, b); }
inline __m512i join_sums(__m512i a, __m512i b) { return _mm512_add_epi32(a, b); }

// Where sums of products begin.
template <typename Group>
inline __m512i empty_sum(const QuantizedGroup& inputs) {
  const __m512i start = _mm512_set1_epi32(inputs.start);
  if (kIsWhole<Group>) return start;
  return _mm512_sub_epi32(_mm512_setzero_si512(),
                          _mm512_slli_epi32(_mm512_srai_epi32(start, 16), 7));
}
template <typename Group>
inline __m512i empty_sum(const HighCodes& high) {
  return _mm512_set1_epi32(kIsWhole<Group> ? high.start : -128 * sum_of(high.start));
}
// Adds what start_of and products made together, times a pair of factors.
inline void add_factored(__m512i& total, __m512i sum, __m512i factors) {
  const __m512i halves = _mm512_xor_si512(sum, _mm512_set1_epi32(kStartTooMuch));
  asm("vpdpwssd %2, %1, %0" : "+v"(total) : "v"(halves), "v"(factors));
}
// Adds a sum times its scales.
inline void add_factored(__m512& total, __m512i sum, __m512i factors) {
  total = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), _mm512_castsi512_ps(factors), total);
}

// Where sums find their weights: unpacked on the way, or beforehand.
template <typename Group, std::size_t C>
struct Packed {
  Block<Group> blocks[C];
  Packed at(std::size_t group) const {
    Packed moved = *this;
    for (Block<Group>& block : moved.blocks) {
      block.first += group;
      block.second += group;
    }
    return moved;
  }
  TwoFours codes(std::size_t c, std::size_t group, std::size_t pair) const {
    return unpack(blocks[c], group, pair);
  }
  __m512i four(std::size_t c, std::size_t four) const {
    const TwoFours two = codes(c, four / kGroupFours, four % kGroupFours / 2);
    return four % 2 ? two.odd : two.even;
  }
  __m512i factors(std::size_t c, std::size_t group) const { return factors_of(blocks[c], group); }
};

template <std::size_t C>
struct Panel {
  alignas(64) std::uint8_t unpacked[kPanelGroups * kGroupFours][C][64];
  alignas(64) std::int32_t scaling[kPanelGroups][C][kColumns];

  template <typename Group>
  void fill(const Packed<Group, C>& from, std::size_t groups) {
    for (std::size_t g = 0; g < groups; ++g) {
      for (std::size_t c = 0; c < C; ++c) {
        for (std::size_t pair = 0; pair < kGroupFours / 2; ++pair) {
          const TwoFours two = from.codes(c, g, pair);
          _mm512_store_si512(unpacked[g * kGroupFours + 2 * pair][c], two.even);
          _mm512_store_si512(unpacked[g * kGroupFours + 2 * pair + 1][c], two.odd);
        }
        _mm512_store_si512(scaling[g][c], from.factors(c, g));
      }
    }
  }
  TwoFours codes(std::size_t c, std::size_t group, std::size_t pair) const {
    const std::size_t even = group * kGroupFours + 2 * pair;
    return {four(c, even), four(c, even + 1)};
  }
  __m512i four(std::size_t c, std::size_t four) const {
    return _mm512_load_si512(unpacked[four][c]);
  }
  __m512i factors(std::size_t c, std::size_t group) const {
    return _mm512_load_si512(scaling[group][c]);
  }
};

template <typename Group, std::size_t R, std::size_t C, typename Weights>
[[gnu::always_inline]] inline void add_group(PanelSum<Group> (&total)[R][C], const Weights& weights,
                                             std::size_t group, const QuantizedGroup* inputs,
                                             std::size_t stride) {
  __m512i sums[R][C];
#pragma GCC unroll 16
  for (std::size_t r = 0; r < R; ++r) {
#pragma GCC unroll 16
    for (std::size_t c = 0; c < C; ++c) sums[r][c] = empty_sum<Group>(inputs[r * stride]);
  }
#pragma GCC unroll 16
  for (std::size_t pair = 0; pair < kGroupFours / 2; ++pair) {
    TwoFours two[C];
#pragma GCC unroll 16
    for (std::size_t c = 0; c < C; ++c) two[c] = weights.codes(c, group, pair);
#pragma GCC unroll 16
    for (std::size_t r = 0; r < R; ++r) {
      const __m512i even = four_inputs(inputs[r * stride].codes + pair * 8);
#pragma GCC unroll 16
      for (std::size_t c = 0; c < C; ++c) add_products(sums[r][c], two[c].even, even);
    }
#pragma GCC unroll 16
    for (std::size_t r = 0; r < R; ++r) {
      const __m512i odd = four_inputs(inputs[r * stride].codes + pair * 8 + 4);
#pragma GCC unroll 16
      for (std::size_t c = 0; c < C; ++c) add_products(sums[r][c], two[c].odd, odd);
    }
  }
#pragma GCC unroll 16
  for (std::size_t c = 0; c < C; ++c) {
    const __m512i factors = weights.factors(c, group);
#pragma GCC unroll 16
    for (std::size_t r = 0; r < R; ++r) add_factored(total[r][c], sums[r][c], factors);
  }
}

template <typename Group, std::size_t C, typename Weights>
inline void add_highs(__m512 (&total)[C], const Weights& weights, const PanelHighs& highs) {
  // In turn to two sums: one alone would wait for each addition.
  PanelSum<Group> sums[2][C] = {};
  const auto add = [&](std::size_t i, PanelSum<Group> (&sum)[C]) {
    const HighCodes& high = highs.codes[i];
    const __m512i codes = four_inputs(high.codes), empty = empty_sum<Group>(high);
    const std::size_t four = highs.fours[i];
#pragma GCC unroll 16
    for (std::size_t c = 0; c < C; ++c) {
      __m512i products = empty;
      add_products(products, weights.four(c, four), codes);
      add_factored(sum[c], products, weights.factors(c, four / kGroupFours));
    }
  };
  std::size_t i = 0;
  for (; i + 2 <= highs.count; i += 2) {
    add(i, sums[0]);
    add(i + 1, sums[1]);
  }
  if (i < highs.count) add(i, sums[0]);
  const __m512 unit = _mm512_set1_ps(static_cast<float>(kHighUnit));
#pragma GCC unroll 16
  for (std::size_t c = 0; c < C; ++c) {
    total[c] = _mm512_fmadd_ps(to_floats(join_sums(sums[0][c], sums[1][c])), unit, total[c]);
  }
}

// Not inlined: GCC keeps the sums in registers only where nothing else wants them.
template <typename Group, std::size_t R, std::size_t C, typename Weights, typename Meanwhile>
[[gnu::noinline]] void add_panel(__m512 (*total)[C], const Weights& weights,
                                 const QuantizedRows& in, std::size_t row, std::size_t panel,
                                 Meanwhile&& meanwhile) {
  const QuantizedGroup* inputs = in.row(row) + panel * kPanelGroups;
  const std::size_t groups = std::min(in.row_groups - panel * kPanelGroups, kPanelGroups);
  PanelSum<Group> sum[R][C] = {};
  for (std::size_t r = 0; r < R; ++r) {
    // The first sixteen or so, which come while low codes are multiplied.
    const PanelHighs& highs = in.highs_of(row + r, panel);
    for (std::size_t line = 0; line < 2; ++line) {
      __builtin_prefetch(reinterpret_cast<const std::byte*>(&highs) + 64 * line);
      __builtin_prefetch(reinterpret_cast<const std::byte*>(highs.fours) + 64 * line);
    }
  }
  for (std::size_t g = 0; g < groups; ++g) {
    meanwhile();
    add_group<Group, R, C>(sum, weights, g, inputs + g, in.row_groups);
  }
#pragma GCC unroll 16
  for (std::size_t r = 0; r < R; ++r) {
#pragma GCC unroll 16
    for (std::size_t c = 0; c < C; ++c) {
      const __m512 here = to_floats(sum[r][c]);
      total[r][c] = panel == 0 ? here : total[r][c] + here;
    }
  }
  for (std::size_t r = 0; r < R; ++r) {
    add_highs<Group, C>(total[r], weights, in.highs_of(row + r, panel));
  }
}

// Of two tiles, as far as there are any.
template <typename Group>
inline __m512 units_of(const Linear& weights, std::size_t tile) {
  __m512 units = _mm512_set1_ps(1.0f);
  if (!kIsWhole<Group> || tile >= weights.tiles()) return units;
  units = _mm512_castps256_ps512(load(weights.units(tile)));
  if (tile + 1 == weights.tiles()) return units;
  return _mm512_castsi512_ps(load_both(weights.units(tile), weights.units(tile + 1)));
}

// Columns [first, end) of the output, of which the first C times sixteen are at hand.
template <typename Group, std::size_t R, std::size_t C>
inline void store_rows(const __m512 (*total)[C], const Linear& weights, RowRange columns,
                       const QuantizedRows& in, std::size_t row, const LinearOutput& out) {
  for (std::size_t c = 0; c < C; ++c) {
    const std::size_t first = columns.begin + c * kColumns;
    const std::size_t count = first < columns.end ? std::min(columns.end - first, kColumns) : 0;
    const auto mask = static_cast<__mmask16>((1u << count) - 1);
    const __m512 units = units_of<Group>(weights, first / kTile);
    for (std::size_t r = 0; r < R; ++r) {
      __m512 result =
          _mm512_mul_ps(_mm512_mul_ps(total[r][c], units), _mm512_set1_ps(in.scales[row + r]));
      float* to = out.values + (row + r) * out.stride + first;
      if (out.bias) result = _mm512_add_ps(result, _mm512_maskz_loadu_ps(mask, out.bias + first));
      if (out.accumulates) result = _mm512_add_ps(result, _mm512_maskz_loadu_ps(mask, to));
      _mm512_mask_storeu_ps(to, mask, result);
    }
  }
}

// The groups of C blocks from a tile on; blocks that reach beyond `end` repeat the first tile.
template <typename Group, std::size_t C>
inline Packed<Group, C> blocks_at(const Linear& weights, std::size_t tile, std::size_t end) {
  const auto groups = [&](std::size_t at) {
    return reinterpret_cast<const Group*>(weights.tile(at < end ? at : tile));
  };
  Packed<Group, C> packed;
  for (std::size_t c = 0; c < C; ++c) {
    packed.blocks[c] = {groups(tile + 2 * c), groups(tile + 2 * c + 1)};
  }
  return packed;
}

template <typename Group, std::size_t C>
void few_rows(const Linear& weights, RowRange tiles, const QuantizedRows& in, RowRange rows,
              const LinearOutput& out, std::size_t next) {
  Ahead ahead(weights, next, 1);
  const std::size_t columns = std::min(weights.outputs(), tiles.end * kTile);
  for (std::size_t tile = tiles.begin; tile < tiles.end; tile += 2 * C) {
    const auto packed = blocks_at<Group, C>(weights, tile, tiles.end);
    with_row_count<C == 1 ? kNarrowRows : kPanelRows>(
        rows.end - rows.begin, rows.begin, [&]<std::size_t R>(std::size_t row) {
          __m512 total[R][C];
          for (std::size_t panel = 0; panel < in.panels(); ++panel) {
            add_panel<Group, R, C>(total, packed.at(panel * kPanelGroups), in, row, panel,
                                   [&] { ahead.step(2 * C * sizeof(Group)); });
          }
          store_rows<Group, R, C>(total, weights, {tile * kTile, columns}, in, row, out);
        });
  }
}

template <typename Group>
void many_rows(const Linear& weights, RowRange tiles, const QuantizedRows& in, RowRange rows,
               const LinearOutput& out, std::size_t next) {
  constexpr std::size_t C = kWideBlocks;
  const std::size_t blocks = (rows.end - rows.begin + kPanelRows - 1) / kPanelRows;
  Ahead ahead(weights, next, blocks);
  const std::size_t columns = std::min(weights.outputs(), tiles.end * kTile);
  Panel<C> unpacked;
  __m512 totals[kMostRows][C];
  for (std::size_t tile = tiles.begin; tile < tiles.end; tile += 2 * C) {
    const auto packed = blocks_at<Group, C>(weights, tile, tiles.end);
    for (std::size_t panel = 0; panel < in.panels(); ++panel) {
      const std::size_t first = panel * kPanelGroups;
      unpacked.fill(packed.at(first), std::min(in.row_groups - first, kPanelGroups));
      for_row_blocks<kPanelRows>(rows, [&]<std::size_t R>(std::size_t row) {
        auto* const total = totals + (row - rows.begin);
        add_panel<Group, R, C>(total, unpacked, in, row, panel,
                               [&] { ahead.step(2 * C * sizeof(Group)); });
        if (panel + 1 == in.panels()) {
          store_rows<Group, R, C>(total, weights, {tile * kTile, columns}, in, row, out);
        }
      });
    }
  }
}

template <typename Group>
void quantized_rows(const Linear& weights, RowRange tiles, const QuantizedRows& in, RowRange rows,
                    const LinearOutput& out, std::size_t next) {
  const std::size_t count = rows.end - rows.begin;
  if (count <= kPanelRows) return few_rows<Group, 2>(weights, tiles, in, rows, out, next);
  if (count <= kNarrowRows) return few_rows<Group, 1>(weights, tiles, in, rows, out, next);
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
