// The kernels, written once over eight lanes.
//
// Each instruction-set file defines, inside an anonymous namespace before including this file,
// the lane primitives that differ: Lanes (eight floats) with fma and load_half, Pair (sixteen
// floats) and how many rows go together; and includes body_linear.hpp, body_codes.hpp or codes of
// its own, and body_quantized.hpp or better products of its own. Everything is in an anonymous
// namespace, so that code compiled for one instruction set is never linked into another's.
//
// Legend: R rows handled together, C tiles handled together.

#include "body_rows.hpp"
#include "body_attention.hpp"
#include "body_state_space.hpp"

constexpr Kernels table(const char* name) {
  return {
      .name = name,
      .quantize_row = quantize_row,
      .linear_quantized = linear_quantized,
      .linear_float = linear_float,
      .project = {project<Float32Cache>, project<Float16Cache>},
      .rms_norm = rms_norm,
      .layer_norm = layer_norm,
      .activate = {activate<Silu>, activate<Gelu>, activate<GeluTanh>, activate<Relu>,
                   activate<ReluSquared>, activate<QuickGelu>},
      .gate = {gate<Silu>, gate<Gelu>, gate<GeluTanh>, gate<Relu>, gate<ReluSquared>,
               gate<QuickGelu>},
      .scale = scale,
      .add_scaled = add_scaled,
      .clamp = clamp,
      .soft_cap = soft_cap,
      .rotate = {rotate_half, rotate_interleaved},
      .convolve = convolve,
      .scan = scan,
      .attend = {attend<Float32Cache>, attend<Float16Cache>, attend<BFloat16Cache>},
      .write_key = {write_key<Float32Cache>, write_key<Float16Cache>, write_key<BFloat16Cache>},
      .write_value = {write_value<Float32Cache>, write_value<Float16Cache>,
                      write_value<BFloat16Cache>},
      .merge_states = merge_states,
      .arg_max = arg_max,
      .keep_marked = keep_marked,
      .sum_runs = sum_runs,
      .exponentials = exponentials,
  };
}
