// The operations a program is made of. Their meaning is yearling/kernels/reference.py.
//
// Buffers are given by number; every function checks columns and throws std::invalid_argument.
#pragma once

#include <memory>
#include <vector>

#include "../program.hpp"

namespace yearling {

enum class Channel { token, span, block };
enum class PoolKind { mean, first, last };
enum class StretchKind { none, dynamic_ntk, stepped_ntk };
struct Stretch {
  StretchKind kind = StretchKind::none;
  double base = 0, factor = 1;
  std::size_t trained = 0;
  bool has_length_factor = false;
};

// ---- rows.cpp ----

std::unique_ptr<Op> make_embed(const Program&, std::shared_ptr<const Linear> table, int output,
                               float scale);
std::unique_ptr<Op> make_inject(const Program&, int output);
std::unique_ptr<Op> make_rms_norm(const Program&, int input, int output, std::vector<float> weight,
                                  float epsilon);
std::unique_ptr<Op> make_layer_norm(const Program&, int input, int output,
                                    std::vector<float> weight, std::vector<float> bias,
                                    float epsilon);
// Norms each of `heads` runs of head_dim columns, in place.
std::unique_ptr<Op> make_head_norm(const Program&, int buffer, std::size_t column,
                                   std::size_t heads, std::size_t head_dim, bool is_layer_norm,
                                   std::vector<float> weight, std::vector<float> bias,
                                   float epsilon);
// Copies as many columns as `output` has, from `column` on.
std::unique_ptr<Op> make_copy(const Program&, int input, int output, std::size_t column);
std::unique_ptr<Op> make_scale(const Program&, int input, int output, float factor);
// output += factor · input.
std::unique_ptr<Op> make_add(const Program&, int input, int output, float factor);
// Copies the rows whose logits are wanted.
std::unique_ptr<Op> make_gather(const Program&, int input, int output);
// One vector for the sequence of each row that is wanted.
std::unique_ptr<Op> make_pool(const Program&, int input, int output, PoolKind kind,
                              bool is_normalised);

// ---- activations.cpp ----

std::unique_ptr<Op> make_activate(const Program&, int buffer, Activation activation);
// output = activation(first half of input's columns) · second half.
std::unique_ptr<Op> make_gate(const Program&, int input, int output, Activation activation);
std::unique_ptr<Op> make_clamp(const Program&, int buffer, std::size_t column, std::size_t width,
                               float limit);
std::unique_ptr<Op> make_soft_cap(const Program&, int buffer, float cap);

// ---- positions.cpp ----

std::unique_ptr<Op> make_add_positions(const Program&, int output,
                                       std::shared_ptr<const std::vector<float>> table,
                                       std::size_t columns, std::size_t offset, Channel channel,
                                       bool accumulates);
// Cosine, then sine, of each frequency times the token's position.
std::unique_ptr<Op> make_angles(const Program&, int output, std::vector<float> frequencies,
                                double factor, Channel channel, const Stretch& stretch);
// Rotates `heads` heads from `column` on by what make_angles wrote.
std::unique_ptr<Op> make_rotary(const Program&, int buffer, int angles, std::size_t column,
                                std::size_t heads, std::size_t head_dim, bool is_interleaved,
                                std::size_t offset);
std::unique_ptr<Op> make_log_scale(const Program&, int buffer, std::size_t column,
                                   std::size_t width, std::size_t trained);

// ---- linear.cpp ----

// Writes columns [column, column + outputs) of `output`, or adds to them; then adds the updates of
// the sequences' adapters.
std::unique_ptr<Op> make_linear(Program&, int input, int output,
                                std::shared_ptr<const Linear> weights, std::vector<float> bias,
                                std::size_t column, bool accumulates);

// A layer's product for some rows, cut into chunks for the pool: by rows first, where there are
// many, so that a thread has the rows whose codes and gates it made itself.
class LinearWork {
 public:
  // `quantized` holds the rows' codes when the weights are quantised.
  LinearWork(const Linear& weights, const float* in, std::size_t in_stride,
             const QuantizedRows& quantized, RowRange rows, const LinearOutput& out);
  std::size_t chunks() const { return tile_chunks_ * row_chunks_; }
  RowRange tiles(std::size_t chunk) const;
  RowRange rows(std::size_t chunk) const;
  void run(const Context& context, std::size_t chunk) const;

 private:
  const Linear& weights_;
  const float* in_;
  std::size_t in_stride_;
  QuantizedRows quantized_;
  RowRange rows_;
  LinearOutput out_;
  std::size_t chunk_tiles_, tile_chunks_, row_chunks_, chunk_rows_;
};

// ---- experts.cpp ----

struct ExpertLayer {
  std::vector<std::shared_ptr<const Linear>> first, second;
  Activation activation;
  bool is_gated;
  std::size_t active;
  bool is_softmax_first;  // over all experts, before the choice
  bool is_renormalised;
};
std::unique_ptr<Op> make_experts(const Program&, int input, int router, int output,
                                 ExpertLayer layer);

// ---- attention.cpp ----

struct CacheLayer {
  std::size_t layer, group, kv_heads, head_dim;
};
std::unique_ptr<Op> make_write_kv(const Program&, int input, const CacheLayer& cache,
                                  std::size_t key_column, std::size_t value_column);

struct AttentionSettings {
  std::size_t heads;
  float scale;
  std::size_t window = 0;  // 0 sees all
  bool sees_prefix = false;
  float soft_cap = 0;         // 0 caps nothing
  std::vector<float> slopes;  // per head, or empty
};
std::unique_ptr<Op> make_attention(const Program&, int input, int output, const CacheLayer& cache,
                                   AttentionSettings settings);

// ---- state_space.cpp ----

// `weight` is [channels][taps].
std::unique_ptr<Op> make_convolution(const Program&, int input, int output, std::size_t taps,
                                     std::vector<float> weight, std::vector<float> bias);

struct ScanBuffers {
  int input, time_step, parameters, gate, output;
  std::size_t input_column, output_column, gate_column;
};
// `matrix` is [channels][states].
std::unique_ptr<Op> make_selective_scan(const Program&, const ScanBuffers& buffers,
                                        std::vector<float> matrix, std::vector<float> skip);

// Shared by the files of this folder.
inline void require(bool condition, const char* message) {
  if (!condition) throw std::invalid_argument(message);
}

}  // namespace yearling
