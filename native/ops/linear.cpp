#include "../linear.hpp"

#include "ops.hpp"

namespace yearling {
namespace {

// A chunk's weights stay in the first-level cache while its rows pass over them. The kernels of
// floating-point weights see to that themselves, and want several tiles at a time.
constexpr std::size_t kChunkBytes = 24 * 1024;
constexpr std::size_t kFloatTiles = 8;
constexpr std::size_t kQuantizedTiles = 2;  // as many as the widest kernels take at a time
constexpr std::size_t kChunkRows = 96;

std::size_t tiles_per_chunk(const Linear& weights) {
  const std::size_t tiles = kChunkBytes / weights.tile_bytes();
  if (weights.is_quantized()) return std::max(kQuantizedTiles, tiles / kQuantizedTiles * kQuantizedTiles);
  return (std::max<std::size_t>(1, tiles) + kFloatTiles - 1) / kFloatTiles * kFloatTiles;
}

struct LinearOp final : Op {
  int input, output;
  std::shared_ptr<const Linear> weights;
  std::vector<float> bias;
  std::size_t column;
  bool accumulates, has_token_rows;

  void collect(Requirements& needs) const override {
    const Limits& limits = needs.limits;
    const std::size_t rows = has_token_rows ? limits.step_tokens : limits.logit_rows;
    if (weights->is_quantized()) needs.need_quantized(rows, weights->inputs());
  }

  void run(Context& context) const override {
    const Buffer &in = context.buffers[input], &out = context.buffers[output];
    const std::size_t rows = context.num_rows(in.rows);
    if (rows == 0) return;
    QuantizedRows quantized = context.scratch.quantized;
    quantized.row_groups = weights->groups();
    if (weights->is_quantized()) {
      context.for_rows(rows, in.columns, [&](std::size_t row) {
        context.kernels.quantize_row(in.row(row), in.columns, quantized, row);
      });
    }
    const LinearOutput to{out.row(0) + column, out.columns, bias.empty() ? nullptr : bias.data(),
                          accumulates};
    const LinearWork work(*weights, in.row(0), in.columns, quantized, {0, rows}, to);
    context.pool.parallel_for(work.chunks(),
                              [&](std::size_t chunk) { work.run(context, chunk); });
  }
};

}  // namespace

LinearWork::LinearWork(const Linear& weights, const float* in, std::size_t in_stride,
                       const QuantizedRows& quantized, RowRange rows, const LinearOutput& out)
    : weights_(weights),
      in_(in),
      in_stride_(in_stride),
      quantized_(quantized),
      rows_(rows),
      out_(out),
      chunk_tiles_(tiles_per_chunk(weights)),
      tile_chunks_((weights.tiles() + chunk_tiles_ - 1) / chunk_tiles_),
      row_chunks_((rows.end - rows.begin + kChunkRows - 1) / kChunkRows) {}

void LinearWork::run(const Context& context, std::size_t chunk) const {
  const std::size_t tile = chunk / row_chunks_ * chunk_tiles_;
  const std::size_t row = rows_.begin + chunk % row_chunks_ * kChunkRows;
  const RowRange tiles{tile, std::min(weights_.tiles(), tile + chunk_tiles_)};
  const RowRange rows{row, std::min(rows_.end, row + kChunkRows)};
  if (weights_.is_quantized()) {
    const auto threads = static_cast<std::size_t>(context.pool.threads());
    const std::size_t next = (chunk + threads) / row_chunks_ * chunk_tiles_;
    context.kernels.linear_quantized(weights_, tiles, quantized_, rows, out_, next);
  } else {
    context.kernels.linear_float(weights_, tiles, in_, in_stride_, rows, out_);
  }
}

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
  op->has_token_rows = in.rows == Rows::tokens;
  return op;
}

}  // namespace yearling
