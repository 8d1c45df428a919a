// The operations a program is made of. Their meaning is yearling/kernels/reference.py.
//
// Buffers are given by number; every function checks columns and throws std::invalid_argument.
#pragma once

#include <memory>
#include <vector>

#include "../program.hpp"

namespace yearling {

std::unique_ptr<Op> make_embed(const Program&, std::shared_ptr<const Linear> table, int output);
std::unique_ptr<Op> make_inject(const Program&, int output);

std::unique_ptr<Op> make_rms_norm(const Program&, int input, int output, std::vector<float> weight,
                                  float epsilon);
std::unique_ptr<Op> make_layer_norm(const Program&, int input, int output,
                                    std::vector<float> weight, std::vector<float> bias,
                                    float epsilon);

// Writes columns [column, column + outputs) of `output`, or adds to them.
std::unique_ptr<Op> make_linear(const Program&, int input, int output,
                                std::shared_ptr<const Linear> weights, std::vector<float> bias,
                                std::size_t column, bool accumulates);

// Rotates `heads` heads from `column` on; cosine and sine are [context][dims / 2].
std::unique_ptr<Op> make_rotary(const Program&, int buffer, std::size_t column, std::size_t heads,
                                std::size_t head_dim,
                                std::shared_ptr<const std::vector<float>> cosine,
                                std::shared_ptr<const std::vector<float>> sine, std::size_t dims);

std::unique_ptr<Op> make_write_kv(const Program&, int input, std::size_t layer,
                                  std::size_t key_column, std::size_t value_column,
                                  std::size_t kv_heads, std::size_t head_dim);
std::unique_ptr<Op> make_attention(const Program&, int input, int output, std::size_t layer,
                                   std::size_t heads, std::size_t kv_heads, std::size_t head_dim,
                                   float scale);

// output = silu(first half of input's columns) · second half.
std::unique_ptr<Op> make_silu_gate(const Program&, int input, int output);

// Copies the rows whose logits are wanted.
std::unique_ptr<Op> make_gather(const Program&, int input, int output);

// Shared by the files of this folder.
inline void require(bool condition, const char* message) {
  if (!condition) throw std::invalid_argument(message);
}

}  // namespace yearling
