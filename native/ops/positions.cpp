// Operations that look at a token's position: tables, angles, rotations, length-dependent scales.
#include <cmath>

#include "ops.hpp"

namespace yearling {
namespace {

// The position of a step's row in one of its three countings; see kernels/ops.py.
std::size_t position_of(const Context& context, std::size_t row, Channel channel) {
  const std::size_t token = context.scratch.positions[row];
  const std::size_t prefix = context.sequence_of(row).prefix;
  switch (channel) {
    case Channel::token: return token;
    case Channel::span: return token < prefix ? token : prefix > 0 ? prefix - 1 : 0;
    case Channel::block: return token < prefix ? 0 : token - prefix + 1;
  }
  return token;
}

struct AddPositions final : RowOp {
  int output;
  std::shared_ptr<const std::vector<float>> table;
  std::size_t offset;
  Channel channel;
  bool accumulates;
  std::optional<RowWork> row_work(const Context& context) const override {
    return RowWork{Rows::tokens, context.buffers[output].columns};
  }
  void run_row(Context& context, std::size_t row) const override {
    const Buffer& out = context.buffers[output];
    const float* from =
        table->data() + (position_of(context, row, channel) + offset) * out.columns;
    if (accumulates) {
      context.kernels.add_scaled(from, 1.0f, out.columns, out.row(row));
    } else {
      std::copy_n(from, out.columns, out.row(row));
    }
  }
};

struct Angles final : RowOp {
  int output;
  std::vector<float> frequencies;
  double factor;
  Channel channel;
  Stretch stretch;

  // The power of the stretched base, and the factor on cosine and sine, at a length in tokens.
  struct Growth {
    double base, factor;
  };
  Growth growth_at(std::size_t length) const {
    const double ratio = static_cast<double>(length) / static_cast<double>(stretch.trained);
    double growth = 1;
    if (stretch.kind == StretchKind::stepped_ntk) {
      const double stretched = stretch.factor * std::max(ratio, 1.0);
      growth = std::max(std::exp2(std::ceil(std::log2(stretched) + 1)) - 1, 1.0);
    } else if (ratio > 1) {
      growth = stretch.factor * ratio - (stretch.factor - 1);
    }
    const double dims = 2 * static_cast<double>(frequencies.size());
    const bool is_scaled = stretch.has_length_factor && ratio > 1;
    return {stretch.base * std::pow(growth, dims / (dims - 2)),
            is_scaled ? 0.1 * std::log(ratio) + 1 : 1.0};
  }

  std::optional<RowWork> row_work(const Context&) const override {
    const std::size_t work = stretch.kind == StretchKind::none ? 64 : 256;
    return RowWork{Rows::tokens, work * frequencies.size()};
  }
  void run_row(Context& context, std::size_t row) const override {
    const std::size_t half = frequencies.size();
    const auto position = static_cast<float>(position_of(context, row, channel));
    float* to = context.buffers[output].row(row);
    if (stretch.kind == StretchKind::none) {
      for (std::size_t i = 0; i < half; ++i) put(to, i, position * frequencies[i], factor);
      return;
    }
    const std::size_t token = context.scratch.positions[row];
    const Growth growth = growth_at(std::max(context.sequence_of(row).prefix, token + 1));
    for (std::size_t i = 0; i < half; ++i) {
      const double power = static_cast<double>(i) / static_cast<double>(half);
      const auto frequency = static_cast<float>(std::pow(growth.base, -power));
      put(to, i, position * frequency, factor * growth.factor);
    }
  }

  // Tables hold float32 angles' cosines; those are taken in double, as rounding them is cheap.
  void put(float* to, std::size_t i, float angle, double scale) const {
    const double wide = angle;
    to[i] = static_cast<float>(std::cos(wide) * scale);
    to[frequencies.size() + i] = static_cast<float>(std::sin(wide) * scale);
  }
};

struct Rotary final : RowOp {
  int buffer, angles;
  std::size_t column, heads, head_dim, offset, half, layout;
  std::optional<RowWork> row_work(const Context&) const override {
    return RowWork{Rows::tokens, heads * head_dim};
  }
  void run_row(Context& context, std::size_t row) const override {
    const float* cosine = context.buffers[angles].row(row);
    float* head = context.buffers[buffer].row(row) + column + offset;
    for (std::size_t h = 0; h < heads; ++h, head += head_dim) {
      context.kernels.rotate[layout](head, cosine, cosine + half, half);
    }
  }
};

struct LogScale final : RowOp {
  int buffer;
  std::size_t column, width, trained;
  std::optional<RowWork> row_work(const Context&) const override {
    return RowWork{Rows::tokens, width};
  }
  void run_row(Context& context, std::size_t row) const override {
    const std::size_t length = context.scratch.positions[row] + 1;
    if (length <= trained) return;
    const double factor = std::log(static_cast<double>(length)) /
                          std::log(static_cast<double>(trained));
    float* values = context.buffers[buffer].row(row) + column;
    context.kernels.scale(values, static_cast<float>(factor), width, values);
  }
};

}  // namespace

std::unique_ptr<Op> make_add_positions(const Program& program, int output,
                                       std::shared_ptr<const std::vector<float>> table,
                                       std::size_t columns, std::size_t offset, Channel channel,
                                       bool accumulates) {
  const Buffer& out = program.buffer(output);
  require(out.rows == Rows::tokens && out.columns == columns,
          "add_positions: output must have token rows as wide as the table.");
  require((program.limits().context + offset) * columns <= table->size(),
          "add_positions: the table has fewer rows than context + offset; give a context that "
          "fits the table.");
  auto op = std::make_unique<AddPositions>();
  op->output = output;
  op->table = std::move(table);
  op->offset = offset;
  op->channel = channel;
  op->accumulates = accumulates;
  return op;
}

std::unique_ptr<Op> make_angles(const Program& program, int output, std::vector<float> frequencies,
                                double factor, Channel channel, const Stretch& stretch) {
  const Buffer& out = program.buffer(output);
  require(out.rows == Rows::tokens && out.columns == 2 * frequencies.size(),
          "angles: output must have a cosine and a sine per frequency.");
  require(stretch.kind == StretchKind::none || (stretch.trained > 0 && frequencies.size() > 1),
          "angles: a stretch needs a trained length and at least 4 dims.");
  auto op = std::make_unique<Angles>();
  op->output = output;
  op->frequencies = std::move(frequencies);
  op->factor = factor;
  op->channel = channel;
  op->stretch = stretch;
  return op;
}

std::unique_ptr<Op> make_rotary(const Program& program, int buffer, int angles, std::size_t column,
                                std::size_t heads, std::size_t head_dim, bool is_interleaved,
                                std::size_t offset) {
  const Buffer &in = program.buffer(buffer), &table = program.buffer(angles);
  require(buffer != angles && in.rows == Rows::tokens && table.rows == Rows::tokens,
          "rotary: heads and angles need token rows.");
  require(column + heads * head_dim <= in.columns,
          "rotary: the heads must lie within the buffer.");
  require(table.columns % 2 == 0 && offset + table.columns <= head_dim,
          "rotary: the rotated dims must be even and lie within head_dim.");
  auto op = std::make_unique<Rotary>();
  op->buffer = buffer;
  op->angles = angles;
  op->column = column;
  op->heads = heads;
  op->head_dim = head_dim;
  op->offset = offset;
  op->half = table.columns / 2;
  op->layout = is_interleaved ? 1 : 0;
  return op;
}

std::unique_ptr<Op> make_log_scale(const Program& program, int buffer, std::size_t column,
                                   std::size_t width, std::size_t trained) {
  const Buffer& in = program.buffer(buffer);
  require(in.rows == Rows::tokens && column + width <= in.columns && trained > 1,
          "log_scale: the columns must lie within token rows, and the trained length exceed 1.");
  auto op = std::make_unique<LogScale>();
  op->buffer = buffer;
  op->column = column;
  op->width = width;
  op->trained = trained;
  return op;
}

}  // namespace yearling
