// The arithmetic of a step, as a table of functions that each instruction set fills.
//
// Every function computes a row, or one (row, column) result, in an order that does not depend on
// how many rows there are: answers must not change with a request's company.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../linear.hpp"

namespace yearling {

// Activations of consecutive rows in 8 bits: value ≈ code · scale, one scale per row, which lets
// codes of 8 bits reach a few times the mean magnitude: a few large inputs change that little. What
// lies beyond has a second code, 254 times as coarse: code = 254 · high + low. On SmolLM2 that is
// one in 21 fours of inputs, and the error of log-probabilities is 0.04 nats.
struct QuantizedGroup {
  std::int8_t codes[kGroup];  // low; zero beyond the inputs
  std::int32_t start;         // of their sum, in the form the same table's products want
};

// The form of a start where a sum of products begins with it, which AVX2's do not (avx2.cpp).
// Two sums in one number, which a pair of factors multiplies: of the codes c in its high half, and
// of c · (weight - 8) in its low half. start_of(s) = 65,536 · s + 32,768 - 8 · s, where s is the
// sum of the codes; with all c · weight added, s is in the high half, and in the low half 32,768
// more than the other sum, so that nothing is borrowed. An exclusive or takes the 32,768 away.
inline constexpr std::int32_t kStartTooMuch = 0x8000;
inline std::int32_t start_of(std::uint32_t sum) {
  return static_cast<std::int32_t>((sum << 16) + kStartTooMuch - kInt4Centre * sum);
}
inline std::int32_t sum_of(std::int32_t start) { return start >> 16; }
// Of at most 32 codes of ±127 both halves hold what they must.
static_assert(kInt4Centre * 127 * kGroup < kStartTooMuch);

inline constexpr int kHighUnit = 254;
inline constexpr float kCodeReach = 4.0f;
// Where results are added to a residual, which hardly feels their noise. Such inputs, products and
// averages, have more large values as well.
inline constexpr float kAddedReach = 6.0f;
inline constexpr float kMostCode = 32000.0f;
// Cutting a scale's last bits makes codes larger by a 128th at most.
static_assert(kMostCode * (1.0f + 1.0f / 128) < 127 * (kHighUnit + 1));

inline constexpr std::size_t kGroupFours = kGroup / 4;

// The high codes of a row's panel: of each four of inputs where one is not zero.
struct HighCodes {
  std::int8_t codes[4];
  std::int32_t start;  // of their sum
};
struct PanelHighs {
  static constexpr std::size_t kMost = kPanelGroups * kGroupFours;
  std::uint32_t count;
  HighCodes codes[kMost];
  std::uint32_t fours[kMost];  // inputs [4 · four, 4 · four + 4) of the panel
};

// Products' sums run over a panel's groups, then over its high codes, then over the next panel.
struct QuantizedRows {
  QuantizedGroup* groups;  // [rows][row_groups]
  PanelHighs* highs;       // [rows][panels]
  float* scales;           // [rows]
  std::size_t row_groups;

  static std::size_t panels_of(std::size_t groups) {
    return (groups + kPanelGroups - 1) / kPanelGroups;
  }
  std::size_t panels() const { return panels_of(row_groups); }
  QuantizedGroup* row(std::size_t index) const { return groups + index * row_groups; }
  PanelHighs& highs_of(std::size_t row, std::size_t panel) const {
    return highs[row * panels() + panel];
  }
};

// Rows that one call of linear_quantized may be given.
inline constexpr std::size_t kMostRows = 96;

// Where results go: out[row · stride + column], added to what is there or overwriting it.
struct LinearOutput {
  float* values;
  std::size_t stride;
  const float* bias;  // per column of the layer, or null
  bool accumulates;
};

struct RowRange {
  std::size_t begin, end;
};

// Tokens of a cache block, whose keys and values of a head lie as body_attention.hpp has them.
inline constexpr std::size_t kBlockTokens = 16;

// Keys are attended to in splits that begin at multiples of their size, whatever a step holds.
inline constexpr std::size_t kSplitBlocks = 16;
inline constexpr std::size_t kSplitTokens = kSplitBlocks * kBlockTokens;

inline constexpr std::size_t kMaxHeadDim = 512;  // bounds the space of a task on the stack

// Rows, one (query, head) pair each, that share a split's keys.
inline constexpr std::size_t kAttentionRows = 12;

// The state of softmax(q·K)·V for one row over part of its keys.
struct AttentionState {
  float maximum;
  float sum;
  float* values;  // [head_dim], not yet divided by sum
};

// Only blocks that some row sees need be there.
struct AttentionSplit {
  const void* keys[kSplitBlocks];
  const void* values[kSplitBlocks];
  std::size_t head_dim;
  float scale;
  // What the thread will probably meet next, block for block, or null: fetched meanwhile.
  const void* next_keys[kSplitBlocks];
  const void* next_values[kSplitBlocks];
};

// The keys [begin, end) of a split that a row sees.
struct KeyRange {
  std::uint32_t begin, end;
};

// What happens to a row's scores before the softmax.
struct ScoreBend {
  float soft_cap;  // 0 caps nothing
  float slope;
  float distance;  // position of the split's first key minus that of the query
};

enum class Activation { silu, gelu, gelu_tanh, relu, relu_squared, quick_gelu };
inline constexpr std::size_t kActivations = 6;

// One sequence's tokens of a step and its channels [begin, end). Arrays of our own are padded to
// whole eights of channels.
struct ConvolutionTask {
  const float* in;
  std::size_t in_stride;
  float* out;
  std::size_t out_stride;
  float* past;          // [taps - 1][padded], the inputs before the step
  const float* weight;  // [taps][padded]
  const float* bias;    // [padded]
  std::size_t tokens, taps, channels, padded, begin, end;
};
struct ScanTask {
  const float *in, *time_step, *inputs, *outputs, *gate;
  std::size_t in_stride, time_step_stride, parameters_stride, gate_stride;
  float* out;
  std::size_t out_stride;
  float* state;         // [padded / 8][states][8]
  const float* matrix;  // [padded / 8][states][8]
  const float* skip;    // [padded]
  std::size_t tokens, states, channels, begin, end;
};

inline constexpr std::size_t kSumRun = 128;  // values that share one of their sums

struct Kernels {
  const char* name;
  bool multiplies_bfloats = false;  // faster than it would numbers of float16

  // Of a row whose codes of 8 bits are to reach `reach` times its mean magnitude.
  void (*quantize_row)(const float* in, std::size_t inputs, float reach, QuantizedRows rows,
                       std::size_t row);

  // Tiles [tiles.begin, tiles.end) of `weights` for at most kMostRows rows; those from tile `next`
  // on are fetched meanwhile, which may lie beyond the last.
  void (*linear_quantized)(const Linear& weights, RowRange tiles, const QuantizedRows& in,
                           RowRange rows, const LinearOutput& out, std::size_t next);
  void (*linear_float)(const Linear& weights, RowRange tiles, const float* in,
                       std::size_t in_stride, RowRange rows, const LinearOutput& out);

  // out[r] = matrix[r] · in for a few rows of a matrix [rows][width]; [0] float32, [1] float16.
  void (*project[2])(const float* in, const void* matrix, std::size_t rows, std::size_t width,
                     float* out);

  void (*rms_norm)(const float* in, const float* weight, float epsilon, std::size_t width,
                   float* out);
  void (*layer_norm)(const float* in, const float* weight, const float* bias, float epsilon,
                     std::size_t width, float* out);
  // In place, and activation(first) · second; by Activation.
  void (*activate[kActivations])(float* values, std::size_t width);
  void (*gate[kActivations])(const float* first, const float* second, std::size_t width,
                             float* out);
  void (*scale)(const float* in, float factor, std::size_t width, float* out);
  // out += factor · in.
  void (*add_scaled)(const float* in, float factor, std::size_t width, float* out);
  void (*clamp)(float* values, float limit, std::size_t width);
  // cap · tanh(value / cap), in place.
  void (*soft_cap)(float* values, float cap, std::size_t width);
  // Rotates pairs of a head by the angles whose cosine and sine are given: [0] pairs
  // (i, i + half), [1] pairs (2i, 2i + 1).
  void (*rotate[2])(float* head, const float* cosine, const float* sine, std::size_t half);

  void (*convolve)(const ConvolutionTask& task);
  void (*scan)(const ScanTask& task);

  // States of up to kAttentionRows rows over the keys of a split that each sees; [0] float32, [1]
  // float16, [2] bfloat16. `queries` is [head_dim][kAttentionRows]; `bends` has one per row,
  // or is null.
  void (*attend[3])(const AttentionSplit& split, const float* queries, const KeyRange* keys,
                    const ScoreBend* bends, std::size_t rows, AttentionState* states);
  void (*write_key[3])(const float* key, std::size_t head_dim, void* keys, std::size_t token);
  void (*write_value[3])(const float* value, std::size_t head_dim, void* values,
                         std::size_t token);
  // Adds `from` to `into`, which holds earlier keys.
  void (*merge_states)(const AttentionState& from, std::size_t head_dim, AttentionState& into);

  // Largest value and its lowest index; false when a value is not finite.
  bool (*arg_max)(const float* values, std::size_t count, std::size_t* index);
  // values[i] = other, unless bit i % 32 of word i / 32 of the marks is set.
  void (*keep_marked)(float* values, std::size_t count, const std::uint32_t* marks, float other);
  // sums[i] = the sum of the i-th kSumRun values, of which the last may be fewer.
  void (*sum_runs)(const float* values, std::size_t count, float* sums);
  // out[i] = exp((in[i] - maximum) · factor), in float32.
  void (*exponentials)(const float* in, std::size_t count, float maximum, float factor,
                       float* out);
};

// The fastest table this processor can run, or the one named; throws on an unknown or
// unsupported name.
const Kernels& select_kernels(const char* name);
const Kernels& portable_kernels();
#if defined(YEARLING_AVX2)
const Kernels& avx2_kernels();
const Kernels& avx512_kernels();
const Kernels& avx512_bf16_kernels();
#endif

}  // namespace yearling
