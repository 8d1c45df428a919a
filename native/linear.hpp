// Weights of linear layers in the layouts the kernels stream.
//
// Eight output columns make a tile; a tile is stored whole, from the first input to the last, so
// one pass over it reads memory in order. Quantisation codes are those of the file, unchanged.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace yearling {

inline constexpr std::size_t kTile = 8;    // output columns per tile
inline constexpr std::size_t kGroup = 32;  // inputs that share a scale

enum class WeightKind { int4, int8, float16, bfloat16, float32 };

// 32 inputs × 8 columns of 4-bit codes: value = ((code - 8) · slope + centre) · unit, where a row of
// the matrix has one unit. So its product with codes of 8 bits is a sum of integers, of which no
// panel's leaves 32 bits, and centre - 8 · slope fits 16 bits as both do; the unit is as small as
// that allows: a few thousandths of the row's largest scale, unless minima are far from it.
// Byte 32·l + 4·c + i holds input 8·l + i of column c in its low nibble and input 8·l + 4 + i in
// its high nibble, so one 32-byte load and a mask give four inputs of all eight columns.
struct Int4Factors {
  std::int16_t slope, centre;
};
struct Int4Group {
  Int4Factors factors[kTile];
  std::uint8_t codes[kGroup * kTile / 2];
};
inline constexpr int kInt4Centre = 8;
static_assert(sizeof(Int4Group) == 160);

// 32 inputs × 8 columns of 8-bit codes: value = code · scale.
// Byte 32·l + 4·c + i holds input 4·l + i of column c.
struct Int8Group {
  std::uint16_t scale[kTile];  // binary16
  std::int8_t codes[kGroup * kTile];
};
static_assert(sizeof(Int8Group) == 272);

// Groups whose products with 8-bit codes may be added up as integers.
inline constexpr std::size_t kPanelGroups = 24;

// Memory for weights that are about to be packed, which a thread of its own prefaults. On a virtual
// machine, whose host must find every page first, that takes longer than packing. Matrices made
// next lie there, as far as it reaches, and keep it; what they leave is given back at the end.
class WeightMemory {
 public:
  explicit WeightMemory(std::size_t bytes);
  WeightMemory(const WeightMemory&) = delete;
  WeightMemory& operator=(const WeightMemory&) = delete;
  ~WeightMemory();

 private:
  std::shared_ptr<std::byte> memory_;
  std::atomic<bool> is_done_ = false;
  std::thread prefaulting_;
};

// A matrix of (outputs, inputs). float16, bfloat16 and float32 tiles hold [input][column], int4
// tiles their columns' units behind the groups.
class Linear {
 public:
  Linear(WeightKind kind, std::size_t outputs, std::size_t inputs);

  WeightKind kind() const { return kind_; }
  std::size_t outputs() const { return outputs_; }
  std::size_t inputs() const { return inputs_; }
  std::size_t tiles() const { return (outputs_ + kTile - 1) / kTile; }
  std::size_t groups() const { return (inputs_ + kGroup - 1) / kGroup; }
  bool is_quantized() const { return kind_ == WeightKind::int4 || kind_ == WeightKind::int8; }
  std::size_t bytes() const { return tiles() * tile_bytes_; }
  std::size_t tile_bytes() const { return tile_bytes_; }
  const std::byte* tile(std::size_t index) const { return data_.get() + index * tile_bytes_; }
  // Of the columns of an int4 tile.
  const float* units(std::size_t tile_index) const {
    return reinterpret_cast<const float*>(tile(tile_index) + groups() * sizeof(Int4Group));
  }

  // Packs `rows` rows, from output `first` on, of a GGUF tensor or plain array in row order.
  // Formats: Q4_0 and Q4_1 into int4, Q8_0 into int8, F32 F16 BF16 into every kind (rounded to
  // nearest, per group, where the kind is quantised).
  void pack(std::size_t first, std::size_t rows, const std::string& format, const std::byte* data,
            std::size_t size);

  // Writes row `output` as float32 values; the embedding look-up of a tied table.
  void unpack_row(std::size_t output, float* values) const;

 private:
  struct Scale {
    float scale, minimum;
  };
  void pack_int4_blocks(std::size_t output, const std::byte* row, bool has_minimum);
  void pack_int8_blocks(std::size_t output, const std::byte* row);
  void pack_floats(std::size_t output, const float* row);
  // Of each group of an int4 row whose value is code · scale + minimum.
  void set_factors(std::size_t output, const std::vector<Scale>& scales);
  template <typename Group>
  Group& group(std::size_t output, std::size_t index) {
    return reinterpret_cast<Group*>(data_.get() + output / kTile * tile_bytes_)[index];
  }
  template <typename Group>
  const Group& group(std::size_t output, std::size_t index) const {
    return reinterpret_cast<const Group*>(tile(output / kTile))[index];
  }

  WeightKind kind_;
  std::size_t outputs_, inputs_, tile_bytes_;
  std::shared_ptr<std::byte> data_;
};

}  // namespace yearling
