// Codes of a group, for files that define round_codes, and high_start and put_start, which store sums
// of codes in the form their products want. Included between body_linear.hpp and body.hpp.

// Moves what the `beyond` codes of a group have too much for 8 bits to high codes; returns the
// sum of the low ones.
inline std::uint32_t split_codes(QuantizedGroup& group, const std::int16_t* codes,
                                 std::uint32_t sum, std::uint32_t beyond, std::size_t first_four,
                                 PanelHighs& highs) {
  std::int8_t high[kGroup] = {};
  for (std::uint32_t left = beyond; left != 0; left &= left - 1) {
    const auto i = static_cast<std::size_t>(std::countr_zero(left));
    const auto code = static_cast<int>(
        std::nearbyint(static_cast<float>(codes[i]) * (1.0f / kHighUnit)));
    high[i] = static_cast<std::int8_t>(code);
    group.codes[i] = static_cast<std::int8_t>(codes[i] - kHighUnit * code);
    sum -= static_cast<std::uint32_t>(kHighUnit * code);
  }
  for (std::size_t four = 0; four < kGroupFours; ++four) {
    if ((beyond >> 4 * four & 15) == 0) continue;
    HighCodes& to = highs.codes[highs.count];
    std::copy_n(high + 4 * four, 4, to.codes);
    const int total = std::accumulate(to.codes, to.codes + 4, 0);
    to.start = high_start(static_cast<std::uint32_t>(total), first_four / kGroupFours);
    highs.fours[highs.count++] = static_cast<std::uint32_t>(first_four + four);
  }
  return sum;
}

// Codes of a group's values times `inverse`.
inline void quantize_group(const float* values, float inverse, QuantizedGroup& to,
                           std::size_t first_four, PanelHighs& highs) {
  std::int16_t codes[kGroup];
  std::int32_t total;
  const std::uint32_t beyond = round_codes(values, inverse, codes, to.codes, total);
  auto sum = static_cast<std::uint32_t>(total);  // of a row that is not finite it may be anything
  if (beyond) sum = split_codes(to, codes, sum, beyond, first_four, highs);
  put_start(to, sum, first_four / kGroupFours);
}
