#include "../linear.hpp"

#include "ops.hpp"

namespace yearling {
namespace {

// A chunk's weights stay in the first-level cache while its rows pass over them.
constexpr std::size_t kChunkBytes = 24 * 1024;
constexpr std::size_t kChunkRows = 96;

struct LinearOp final : Op {
  int input, output;
  std::shared_ptr<const Linear> weights;
  std::vector<float> bias;
  std::size_t column;
  bool accumulates;

  std::size_t quantized_inputs() const override {
    return weights->is_quantized() ? weights->inputs() : 0;
  }

  void run(Context& context) const override {
    const Buffer &in = context.buffers[input], &out = context.buffers[output];
    const std::size_t rows = context.num_rows(in.rows);
    if (rows == 0) return;
    QuantizedRows quantized = context.scratch.quantized;
    quantized.groups = weights->groups();
    if (weights->is_quantized()) {
      context.for_rows(rows, in.columns, [&](std::size_t row) {
        context.kernels.quantize_row(in.row(row), in.columns, quantized, row);
      });
    }
    const LinearOutput to{out.row(0) + column, out.columns, bias.empty() ? nullptr : bias.data(),
                          accumulates};
    const std::size_t tiles = weights->tiles();
    const std::size_t chunk = std::max<std::size_t>(1, kChunkBytes / weights->tile_bytes());
    const std::size_t tile_chunks = (tiles + chunk - 1) / chunk;
    const std::size_t row_chunks = (rows + kChunkRows - 1) / kChunkRows;
    context.pool.parallel_for(tile_chunks * row_chunks, [&](std::size_t index) {
      const std::size_t tile = index / row_chunks * chunk, row = index % row_chunks * kChunkRows;
      const RowRange some_tiles{tile, std::min(tiles, tile + chunk)};
      const RowRange some_rows{row, std::min(rows, row + kChunkRows)};
      if (weights->is_quantized()) {
        context.kernels.linear_quantized(*weights, some_tiles, quantized, some_rows, to);
      } else {
        context.kernels.linear_float(*weights, some_tiles, in.row(0), in.columns, some_rows, to);
      }
    });
  }
};

}  // namespace

std::unique_ptr<Op> make_linear(const Program& program, int input, int output,
                                std::shared_ptr<const Linear> weights, std::vector<float> bias,
                                std::size_t column, bool accumulates) {
  const Buffer &in = program.buffer(input), &out = program.buffer(output);
  require(input != output && in.rows == out.rows && in.columns == weights->inputs() &&
              column + weights->outputs() <= out.columns,
          "linear: (outputs, inputs) must fit the output's and the input's columns.");
  require(bias.empty() || bias.size() == weights->outputs(), "linear: bias has one per output.");
  auto op = std::make_unique<LinearOp>();
  op->input = input;
  op->output = output;
  op->weights = std::move(weights);
  op->bias = std::move(bias);
  op->column = column;
  op->accumulates = accumulates;
  return op;
}

}  // namespace yearling
