#include "linear.hpp"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <mutex>
#include <new>
#include <vector>

#include "numbers.hpp"

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace yearling {
namespace {

constexpr std::size_t kAlignment = 64;

constexpr std::size_t kHugePage = 2 << 20;

// All matrices lie one behind the other in large areas of large pages. A step streams every
// weight once: with pages of 4 KiB it would also walk the page tables once for each of them.
struct Area {
  std::weak_ptr<std::byte> memory;  // the matrices in it keep it alive
  std::size_t used = 0, size = 0;
};
Area area;
std::mutex area_mutex;

// Gives what no matrix lies in back to the system; with the lock held.
void release_rest_of_area() {
#if defined(__linux__)
  const std::shared_ptr<std::byte> whole = area.memory.lock();
  const std::size_t first = (area.used + kHugePage - 1) / kHugePage * kHugePage;
  if (whole && first < area.size) madvise(whole.get() + first, area.size - first, MADV_DONTNEED);
#endif
}

// A new area in place of the one there is; with the lock held.
std::shared_ptr<std::byte> new_area(std::size_t bytes) {
  release_rest_of_area();
  const std::size_t size = (bytes + kHugePage - 1) / kHugePage * kHugePage;
  auto* memory = static_cast<std::byte*>(std::aligned_alloc(kHugePage, size));
  if (!memory) throw std::bad_alloc();
#if defined(__linux__)
  madvise(memory, size, MADV_HUGEPAGE);
#endif
  std::shared_ptr<std::byte> whole(memory, [](std::byte* data) { std::free(data); });
  area = {whole, 0, size};
  return whole;
}

std::shared_ptr<std::byte> allocate_weights(std::size_t bytes) {
  constexpr std::size_t kArea = 32 << 20;
  bytes = (bytes + kAlignment - 1) / kAlignment * kAlignment;
  const std::lock_guard lock(area_mutex);
  std::shared_ptr<std::byte> whole = area.memory.lock();
  if (!whole || area.used + bytes > area.size) whole = new_area(std::max(kArea, bytes));
  const std::shared_ptr<std::byte> place(whole, whole.get() + area.used);
  area.used += bytes;
  return place;
}

std::size_t bytes_of_tile(WeightKind kind, std::size_t inputs) {
  const std::size_t groups = (inputs + kGroup - 1) / kGroup;
  switch (kind) {
    case WeightKind::int4: return groups * sizeof(Int4Group) + kTile * sizeof(float);
    case WeightKind::int8: return groups * sizeof(Int8Group);
    case WeightKind::float16:
    case WeightKind::bfloat16: return inputs * kTile * 2;
    case WeightKind::float32: return inputs * kTile * 4;
  }
  throw std::logic_error("unknown weight kind");
}

struct Format {
  std::size_t block_inputs, block_bytes;
};

Format format_of(const std::string& name) {
  if (name == "F32") return {1, 4};
  if (name == "F16" || name == "BF16") return {1, 2};
  if (name == "Q4_0") return {32, 18};
  if (name == "Q4_1") return {32, 20};
  if (name == "Q8_0") return {32, 34};
  throw std::invalid_argument("the native core does not pack format " + name +
                              "; it packs F32, F16, BF16, Q4_0, Q4_1 and Q8_0.");
}

std::uint16_t read_u16(const std::byte* from) {
  std::uint16_t value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

// Where input `i` of column `c` lies in a group; int4 packs two such places into a byte.
std::size_t int4_byte(std::size_t column, std::size_t input) {
  return input / 8 * 32 + column * 4 + input % 4;
}
std::size_t int8_byte(std::size_t column, std::size_t input) {
  return input / 4 * 32 + column * 4 + input % 4;
}

void put_nibble(Int4Group& group, std::size_t column, std::size_t input, unsigned code) {
  std::uint8_t& byte = group.codes[int4_byte(column, input)];
  byte = input % 8 < 4 ? static_cast<std::uint8_t>((byte & 0xf0) | code)
                       : static_cast<std::uint8_t>((byte & 0x0f) | code << 4);
}

std::vector<float> to_floats(const std::string& format, const std::byte* row, std::size_t inputs) {
  std::vector<float> values(inputs);
  if (format == "F32") std::memcpy(values.data(), row, inputs * 4);
  for (std::size_t i = 0; i < inputs && format != "F32"; ++i) {
    const std::uint16_t raw = read_u16(row + 2 * i);
    values[i] = format == "F16" ? half_to_float(raw) : bfloat_to_float(raw);
  }
  return values;
}

}  // namespace

WeightMemory::WeightMemory(std::size_t bytes) {
  const std::lock_guard lock(area_mutex);
  try {
    memory_ = new_area(std::max<std::size_t>(bytes, 1));
    // Touched and not populated by madvise, which keeps the whole process from mapping memory. Packing
    // may have come to a byte before: `or` with 0 leaves it what it is.
    prefaulting_ = std::thread([this, size = area.size] {
      for (std::size_t at = 0; at < size && !is_done_; at += kHugePage) {
        auto* byte = reinterpret_cast<volatile unsigned char*>(memory_.get() + at);
        __atomic_fetch_or(byte, 0, __ATOMIC_RELAXED);
      }
    });
  } catch (const std::exception&) {
    // No such memory, or no thread: packing asks for what it needs, and says so if there is none.
  }
}

WeightMemory::~WeightMemory() {
  is_done_ = true;
  if (prefaulting_.joinable()) prefaulting_.join();
  const std::lock_guard lock(area_mutex);
  if (memory_ && memory_ == area.memory.lock()) release_rest_of_area();
}

Linear::Linear(WeightKind kind, std::size_t outputs, std::size_t inputs)
    : kind_(kind), outputs_(outputs), inputs_(inputs), tile_bytes_(bytes_of_tile(kind, inputs)) {
  if (outputs == 0 || inputs == 0) {
    throw std::invalid_argument("a linear layer needs at least one input and one output.");
  }
  data_ = allocate_weights(bytes());
  // Rows beyond `outputs` must read as zero; of inputs beyond `inputs` the row's codes do.
  if (outputs % kTile || inputs % kGroup) std::memset(data_.get(), 0, bytes());
}

void Linear::pack(std::size_t first, std::size_t rows, const std::string& format,
                  const std::byte* data, std::size_t size) {
  const Format from = format_of(format);
  if (inputs_ % from.block_inputs) {
    throw std::invalid_argument(std::to_string(inputs_) + " inputs are not whole blocks of " +
                                format + ".");
  }
  const std::size_t row_bytes = inputs_ / from.block_inputs * from.block_bytes;
  if (first + rows > outputs_ || size != rows * row_bytes) {
    throw std::invalid_argument("packing " + std::to_string(rows) + " rows at " +
                                std::to_string(first) + " of " + std::to_string(outputs_) + ": " +
                                std::to_string(size) + " bytes given, " +
                                std::to_string(rows * row_bytes) + " expected.");
  }
  const bool is_block = from.block_inputs > 1;
  const WeightKind exact = format == "Q8_0" ? WeightKind::int8 : WeightKind::int4;
  if (is_block && kind_ != exact) {
    throw std::invalid_argument(format + " blocks keep their codes only in their own layout.");
  }
  for (std::size_t row = 0; row < rows; ++row, data += row_bytes) {
    if (!is_block) {
      pack_floats(first + row, to_floats(format, data, inputs_).data());
    } else if (kind_ == WeightKind::int8) {
      pack_int8_blocks(first + row, data);
    } else {
      pack_int4_blocks(first + row, data, format == "Q4_1");
    }
  }
}

void Linear::pack_int4_blocks(std::size_t output, const std::byte* row, bool has_minimum) {
  const std::size_t column = output % kTile;
  std::vector<Scale> scales(groups());
  for (std::size_t g = 0; g < groups(); ++g) {
    Int4Group& to = group<Int4Group>(output, g);
    const float scale = half_to_float(read_u16(row));
    // Q4_0 stores code - 8.
    scales[g] = {scale, has_minimum ? half_to_float(read_u16(row + 2)) : -8 * scale};
    const std::byte* codes = row + (has_minimum ? 4 : 2);
    // A file's byte j holds input j (low) and input j + 16 (high). Eight columns share a tile's
    // bytes, four of them adjacent per column, so codes move four at a time.
    for (std::size_t block = 0; block < 4; ++block) {
      std::uint32_t low, high;
      const std::size_t source = block % 2 * 8;
      std::memcpy(&low, codes + source, 4);
      std::memcpy(&high, codes + source + 4, 4);
      const int shift = block < 2 ? 0 : 4;
      const std::uint32_t packed =
          (low >> shift & 0x0f0f0f0f) | (high >> shift & 0x0f0f0f0f) << 4;
      std::memcpy(to.codes + block * 32 + column * 4, &packed, 4);
    }
    row += has_minimum ? 20 : 18;
  }
  set_factors(output, scales);
}

void Linear::set_factors(std::size_t output, const std::vector<Scale>& scales) {
  constexpr float kMostFactor = 32767.0f;
  // Less what rounding does to a slope, eight times, and to a centre.
  constexpr float kMostMinimum = kMostFactor - 0.5f * (kInt4Centre + 1);
  // What the sums of a panel may reach by codes of ±127, less what rounding its factors adds.
  constexpr float kMostSum = 0x1p31f - 0x1p20f;
  const auto centre_of = [](const Scale& s) { return s.minimum + kInt4Centre * s.scale; };
  float factor = 0.0f, minimum = 0.0f, sum = 0.0f, panel = 0.0f;  // the largest of each; and a running sum
  for (std::size_t g = 0; g < scales.size(); ++g) {
    const float slope = std::fabs(scales[g].scale), centre = std::fabs(centre_of(scales[g]));
    panel = (g % kPanelGroups ? panel : 0.0f) + 127 * kGroup * (kInt4Centre * slope + centre);
    factor = std::max({factor, slope, centre});
    minimum = std::max(minimum, std::fabs(scales[g].minimum));
    sum = std::max(sum, panel);
  }
  float unit = std::max({factor / kMostFactor, minimum / kMostMinimum, sum / kMostSum});
  if (!std::isnormal(unit)) unit = 0.0f;  // too small to count in
  // A row with a broken scale stays broken as a whole.
  const bool is_usable = std::all_of(scales.begin(), scales.end(), [](const Scale& s) {
    return std::isfinite(s.scale) && std::isfinite(s.minimum);
  });
  const std::size_t column = output % kTile;
  std::byte* const units = data_.get() + (output / kTile + 1) * tile_bytes_ - kTile * sizeof unit;
  reinterpret_cast<float*>(units)[column] =
      is_usable ? unit : std::numeric_limits<float>::quiet_NaN();
  const auto to_factor = [&](float value) {
    const bool is_zero = !is_usable || unit == 0.0f;
    // Rounds as std::nearbyint does up to 2^22, and no factor is beyond 32,767; that one is a call
    // on processors without SSE 4.1.
    constexpr float kNoFraction = 0x1.8p23f;
    return static_cast<std::int16_t>(is_zero ? 0.0f : value / unit + kNoFraction - kNoFraction);
  };
  for (std::size_t g = 0; g < scales.size(); ++g) {
    group<Int4Group>(output, g).factors[column] = {to_factor(scales[g].scale),
                                                   to_factor(centre_of(scales[g]))};
  }
}

void Linear::pack_int8_blocks(std::size_t output, const std::byte* row) {
  const std::size_t column = output % kTile;
  for (std::size_t g = 0; g < groups(); ++g, row += 34) {
    Int8Group& to = group<Int8Group>(output, g);
    to.scale[column] = read_u16(row);
    for (std::size_t i = 0; i < kGroup; i += 4) {
      std::memcpy(to.codes + int8_byte(column, i), row + 2 + i, 4);
    }
  }
}

void Linear::pack_floats(std::size_t output, const float* row) {
  const std::size_t column = output % kTile;
  std::byte* tile = data_.get() + output / kTile * tile_bytes_;
  if (!is_quantized()) {
    for (std::size_t i = 0; i < inputs_; ++i) {
      const std::size_t place = i * kTile + column;
      if (kind_ == WeightKind::float32) {
        reinterpret_cast<float*>(tile)[place] = row[i];
      } else if (kind_ == WeightKind::float16) {
        reinterpret_cast<std::uint16_t*>(tile)[place] = float_to_half(row[i]);
      } else {
        // Only bfloat16 files take this layout, so dropping the low half loses nothing.
        reinterpret_cast<std::uint16_t*>(tile)[place] =
            static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(row[i]) >> 16);
      }
    }
    return;
  }
  std::vector<Scale> scales(groups());
  for (std::size_t g = 0; g < groups(); ++g) {
    const std::size_t begin = g * kGroup, count = std::min(kGroup, inputs_ - begin);
    const auto [low, high] = std::minmax_element(row + begin, row + begin + count);
    const bool is_sound = std::all_of(row + begin, row + begin + count,
                                      [](float weight) { return std::isfinite(weight); });
    const float broken = std::numeric_limits<float>::quiet_NaN();
    if (kind_ == WeightKind::int8) {
      Int8Group& to = group<Int8Group>(output, g);
      const float most = is_sound ? std::max(std::fabs(*low), std::fabs(*high)) : broken;
      to.scale[column] = float_to_half(most / 127);
      const float scale = half_to_float(to.scale[column]);
      for (std::size_t i = 0; i < count; ++i) {
        const float code = scale > 0 ? std::nearbyint(row[begin + i] / scale) : 0;
        to.codes[int8_byte(column, i)] =
            static_cast<std::int8_t>(std::clamp(code, -127.0f, 127.0f));
      }
    } else {
      Int4Group& to = group<Int4Group>(output, g);
      const float scale = is_sound ? (*high - *low) / 15 : broken, minimum = *low;
      scales[g] = {scale, minimum};
      for (std::size_t i = 0; i < count; ++i) {
        const float code = scale > 0 ? std::nearbyint((row[begin + i] - minimum) / scale) : 0;
        put_nibble(to, column, i, static_cast<unsigned>(std::clamp(code, 0.0f, 15.0f)));
      }
    }
  }
  if (kind_ == WeightKind::int4) set_factors(output, scales);
}

void Linear::unpack_row(std::size_t output, float* values) const {
  const std::size_t column = output % kTile;
  const std::byte* data = tile(output / kTile);
  for (std::size_t i = 0; i < inputs_; ++i) {
    const std::size_t place = i * kTile + column, g = i / kGroup, in_group = i % kGroup;
    switch (kind_) {
      case WeightKind::float32: values[i] = reinterpret_cast<const float*>(data)[place]; break;
      case WeightKind::float16:
        values[i] = half_to_float(reinterpret_cast<const std::uint16_t*>(data)[place]);
        break;
      case WeightKind::bfloat16:
        values[i] = bfloat_to_float(reinterpret_cast<const std::uint16_t*>(data)[place]);
        break;
      case WeightKind::int8: {
        const Int8Group& from = group<Int8Group>(output, g);
        values[i] = from.codes[int8_byte(column, in_group)] * half_to_float(from.scale[column]);
        break;
      }
      case WeightKind::int4: {
        const Int4Group& from = group<Int4Group>(output, g);
        const int byte = from.codes[int4_byte(column, in_group)];
        const int code = in_group % 8 < 4 ? byte & 15 : byte >> 4;
        const Int4Factors factors = from.factors[column];
        const int whole = (code - kInt4Centre) * factors.slope + factors.centre;
        values[i] = static_cast<float>(whole) * units(output / kTile)[column];
        break;
      }
    }
  }
}

}  // namespace yearling
