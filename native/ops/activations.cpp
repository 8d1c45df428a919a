// Operations on single entries: activations, gates, clamps and caps.
#include "ops.hpp"

namespace yearling {
namespace {

struct Activate final : RowOp {
  int buffer;
  std::size_t activation;
  std::optional<RowWork> row_work(const Context& context) const override {
    const Buffer& in = context.buffers[buffer];
    return RowWork{in.rows, 4 * in.columns};
  }
  void run_row(Context& context, std::size_t row) const override {
    const Buffer& in = context.buffers[buffer];
    context.kernels.activate[activation](in.row(row), in.columns);
  }
};

struct Gate final : RowOp {
  int input, output;
  std::size_t activation;
  std::optional<RowWork> row_work(const Context& context) const override {
    const Buffer& out = context.buffers[output];
    return RowWork{out.rows, 4 * out.columns};
  }
  void run_row(Context& context, std::size_t row) const override {
    const Buffer &in = context.buffers[input], &out = context.buffers[output];
    const float* first = in.row(row);
    context.kernels.gate[activation](first, first + out.columns, out.columns, out.row(row));
  }
};

struct Clamp final : RowOp {
  int buffer;
  std::size_t column, width;
  float limit;
  std::optional<RowWork> row_work(const Context& context) const override {
    return RowWork{context.buffers[buffer].rows, width};
  }
  void run_row(Context& context, std::size_t row) const override {
    context.kernels.clamp(context.buffers[buffer].row(row) + column, limit, width);
  }
};

// Logits are few rows and many columns, so rows are cut up.
struct SoftCap final : Op {
  static constexpr std::size_t kColumns = 4096;
  int buffer;
  float cap;
  void run(Context& context) const override {
    const Buffer& in = context.buffers[buffer];
    const std::size_t parts = (in.columns + kColumns - 1) / kColumns;
    const std::size_t count = context.num_rows(in.rows) * parts;
    context.for_rows(count, 4 * std::min(kColumns, in.columns), [&](std::size_t index) {
      const std::size_t column = index % parts * kColumns;
      const std::size_t width = std::min(kColumns, in.columns - column);
      context.kernels.soft_cap(in.row(index / parts) + column, cap, width);
    });
  }
};

}  // namespace

std::unique_ptr<Op> make_activate(const Program& program, int buffer, Activation activation) {
  program.buffer(buffer);
  auto op = std::make_unique<Activate>();
  op->buffer = buffer;
  op->activation = static_cast<std::size_t>(activation);
  return op;
}

std::unique_ptr<Op> make_gate(const Program& program, int input, int output,
                              Activation activation) {
  const Buffer &in = program.buffer(input), &out = program.buffer(output);
  require(in.columns == 2 * out.columns && in.rows == out.rows,
          "gate: input must be twice as wide as output.");
  auto op = std::make_unique<Gate>();
  op->input = input;
  op->output = output;
  op->activation = static_cast<std::size_t>(activation);
  return op;
}

std::unique_ptr<Op> make_clamp(const Program& program, int buffer, std::size_t column,
                               std::size_t width, float limit) {
  require(column + width <= program.buffer(buffer).columns && limit > 0,
          "clamp: columns must lie within the buffer, and the limit be positive.");
  auto op = std::make_unique<Clamp>();
  op->buffer = buffer;
  op->column = column;
  op->width = width;
  op->limit = limit;
  return op;
}

std::unique_ptr<Op> make_soft_cap(const Program& program, int buffer, float cap) {
  program.buffer(buffer);
  require(cap > 0, "soft_cap: the cap must be positive.");
  auto op = std::make_unique<SoftCap>();
  op->buffer = buffer;
  op->cap = cap;
  return op;
}

}  // namespace yearling
