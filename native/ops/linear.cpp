#include "../linear.hpp"

#include "ops.hpp"

namespace yearling {
namespace {

// A chunk's weights stay in the first-level cache while its rows pass over them. The kernels of
// floating-point weights see to that themselves, and want several tiles at a time.
constexpr std::size_t kChunkBytes = 24 * 1024;
constexpr std::size_t kFloatTiles = 8;
constexpr std::size_t kQuantizedTiles = 4;  // as many as the widest kernels take at a time
constexpr std::size_t kManyChunks = 32;
constexpr std::size_t kRowsTogether = 6;  // so that no block of rows is smaller than it must be
constexpr std::size_t kUpdateWork = 16;  // floats of an adapter that a row meets per input, about

std::size_t tiles_per_chunk(const Linear& weights) {
  const std::size_t tiles = kChunkBytes / weights.tile_bytes();
  if (weights.is_quantized()) {
    // Small matrices are cut finely, or one thread would wait for another's last chunk.
    const bool is_small = weights.tiles() < kManyChunks * tiles;
    return is_small ? kQuantizedTiles
                    : std::max(kQuantizedTiles, tiles / kQuantizedTiles * kQuantizedTiles);
  }
  return (std::max<std::size_t>(1, tiles) + kFloatTiles - 1) / kFloatTiles * kFloatTiles;
}

struct LinearOp final : Op {
  int input, output;
  std::shared_ptr<const Linear> weights;
  std::vector<float> bias;
  std::size_t column, number, most_rows;
  bool accumulates;

  void collect(Requirements& needs) const override {
    if (weights->is_quantized()) needs.need_quantized(most_rows, weights->inputs());
  }

  QuantizedRows quantized_in(const Context& context) const {
    QuantizedRows quantized = context.scratch.quantized;
    quantized.row_groups = weights->groups();
    return quantized;
  }

  std::optional<RowWork> row_work(const Context& context) const override {
    const Buffer& in = context.buffers[input];
    const bool has_updates = is_updated(context);
    if (!weights->is_quantized() && !has_updates) return {};
    return RowWork{in.rows, has_updates ? kUpdateWork * in.columns : in.columns};
  }
  void run_row(Context& context, std::size_t row) const override {
    const Buffer& in = context.buffers[input];
    if (weights->is_quantized()) {
      context.kernels.quantize_row(in.row(row), in.columns,
                                   accumulates ? kAddedReach : kCodeReach, quantized_in(context),
                                   row);
    }
    if (!context.adapters.empty()) begin_update(context, in, row);
  }

  void run(Context& context) const override {
    const Buffer &in = context.buffers[input], &out = context.buffers[output];
    const std::size_t rows = context.num_rows(in.rows);
    if (rows == 0) return;
    const LinearOutput to{out.row(0) + column, out.columns, bias.empty() ? nullptr : bias.data(),
                          accumulates};
    const LinearWork work(*weights, in.row(0), in.columns, quantized_in(context), {0, rows}, to);
    const bool has_updates = is_updated(context);
    context.pool.parallel_for(work.chunks(), [&](std::size_t chunk) {
      const RowRange tiles = work.tiles(chunk), own = work.rows(chunk);
      const RowRange next{tiles.end, 2 * tiles.end - tiles.begin};
      if (has_updates) fetch_updates(context, next, own);
      work.run(context, chunk);
      if (has_updates) add_updates(context, tiles, own, to);
    });
  }

  // ---- adapters ----

  const LowRank* update_of(const Context& context, const Sequence& sequence) const {
    if (sequence.adapter < 0) return nullptr;
    const LowRank& update = context.adapters[static_cast<std::size_t>(sequence.adapter)][number];
    return update.ranks > 0 ? &update : nullptr;
  }

  const LowRank* update_of(const Context& context, std::size_t row) const {
    const Rows kind = context.buffers[input].rows;
    return update_of(context, context.sequence_of(context.token_of(kind, row)));
  }

  bool is_updated(const Context& context) const {
    return std::any_of(context.step.sequences.begin(), context.step.sequences.end(),
                       [&](const Sequence& s) { return update_of(context, s) != nullptr; });
  }

  void begin_update(const Context& context, const Buffer& in, std::size_t row) const {
    const LowRank* update = update_of(context, row);
    if (!update) return;
    const auto type = static_cast<std::size_t>(update->type);
    context.kernels.project[type](in.row(row), update->first.data(), update->ranks,
                                  update->inputs,
                                  context.scratch.low_rank->floats() +
                                      row * context.scratch.low_rank_width);
  }

  // Calls body(update, first row, last row) for runs of rows that share an update.
  template <typename Body>
  void for_updates(const Context& context, RowRange rows, Body&& body) const {
    for (std::size_t row = rows.begin; row < rows.end;) {
      const LowRank* update = update_of(context, row);
      const std::size_t begin = row++;
      while (row < rows.end && update_of(context, row) == update) ++row;
      if (update) body(*update, RowRange{begin, row});
    }
  }

  // The tiles of a part's second matrix that lie among those of a chunk.
  static RowRange tiles_within(const LowRankPart& part, RowRange tiles) {
    const std::size_t first = part.column / kTile;
    const std::size_t begin = std::max(tiles.begin, first);
    const std::size_t end = std::max(begin, std::min(tiles.end, first + part.second->tiles()));
    return {begin - first, end - first};
  }

  // Asks for second matrices, which come while the layer's own product is made: one after the other
  // in memory for each adapter, but in short pieces, of which the processor foresees none.
  void fetch_updates(const Context& context, RowRange tiles, RowRange rows) const {
    constexpr std::size_t kLine = 64;
    for_updates(context, rows, [&](const LowRank& update, RowRange) {
      for (const LowRankPart& part : update.parts) {
        const RowRange own = tiles_within(part, tiles);
        const std::byte* const end = part.second->tile(own.end);
        for (const std::byte* line = part.second->tile(own.begin); line < end; line += kLine) {
          __builtin_prefetch(line);
          // Without an effect that it knows of, GCC 12 takes the whole walk away.
          asm volatile("" : : "r"(line));
        }
      }
    });
  }

  void add_updates(const Context& context, RowRange tiles, RowRange rows,
                   const LinearOutput& out) const {
    const float* between = context.scratch.low_rank->floats();
    for_updates(context, rows, [&](const LowRank& update, RowRange run) {
      for (const LowRankPart& part : update.parts) {
        const RowRange own = tiles_within(part, tiles);
        if (own.begin == own.end) continue;
        const LinearOutput to{out.values + part.column, out.stride, nullptr, true};
        context.kernels.linear_float(*part.second, own, between + part.first_row,
                                     context.scratch.low_rank_width, run, to);
      }
    });
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
      row_chunks_((rows.end - rows.begin + kMostRows - 1) / kMostRows) {
  const std::size_t cuts = std::max<std::size_t>(row_chunks_, 1);
  const std::size_t even = (rows.end - rows.begin + cuts - 1) / cuts;
  chunk_rows_ = (even + kRowsTogether - 1) / kRowsTogether * kRowsTogether;
}

RowRange LinearWork::tiles(std::size_t chunk) const {
  const std::size_t tile = chunk % tile_chunks_ * chunk_tiles_;
  return {tile, std::min(weights_.tiles(), tile + chunk_tiles_)};
}

RowRange LinearWork::rows(std::size_t chunk) const {
  const std::size_t row = rows_.begin + chunk / tile_chunks_ * chunk_rows_;
  return {row, std::min(rows_.end, row + chunk_rows_)};
}

void LinearWork::run(const Context& context, std::size_t chunk) const {
  if (weights_.is_quantized()) {
    const std::size_t next = (chunk + 1) % tile_chunks_ * chunk_tiles_;
    context.kernels.linear_quantized(weights_, tiles(chunk), quantized_, rows(chunk), out_, next);
  } else {
    context.kernels.linear_float(weights_, tiles(chunk), in_, in_stride_, rows(chunk), out_);
  }
}

std::unique_ptr<Op> make_linear(Program& program, int input, int output,
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
  op->number = program.add_linear(op->weights->outputs(), op->weights->inputs());
  op->most_rows = program.most_rows(in.rows);
  op->accumulates = accumulates;
  return op;
}

}  // namespace yearling
