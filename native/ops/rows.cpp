// Operations that move or scale rows: embed, inject, norms, copies and sums, gather, pool.
#include <cmath>
#include <cstring>

#include "ops.hpp"

namespace yearling {
namespace {

struct Embed final : RowOp {
  std::shared_ptr<const Linear> table;
  int output;
  float scale;
  std::optional<RowWork> row_work(const Context& context) const override {
    return RowWork{Rows::tokens, 4 * context.buffers[output].columns};
  }
  void run_row(Context& context, std::size_t row) const override {
    const Buffer& out = context.buffers[output];
    float* to = out.row(row);
    table->unpack_row(static_cast<std::size_t>(context.step.tokens[row]), to);
    if (scale != 1.0f) context.kernels.scale(to, scale, out.columns, to);
  }
};

struct Inject final : Op {
  int output;
  void run(Context& context) const override {
    const Buffer& out = context.buffers[output];
    const Injection& injection = context.step.injection;
    for (std::size_t i = 0; i < injection.rows.size(); ++i) {
      std::memcpy(out.row(static_cast<std::size_t>(injection.rows[i])),
                  injection.values + i * out.columns, out.columns * sizeof(float));
    }
  }
};

struct Norm final : RowOp {
  int input, output;
  bool is_layer_norm;
  std::vector<float> weight, bias;
  float epsilon;
  std::optional<RowWork> row_work(const Context& context) const override {
    const Buffer& in = context.buffers[input];
    return RowWork{in.rows, in.columns};
  }
  void run_row(Context& context, std::size_t row) const override {
    const Buffer &in = context.buffers[input], &out = context.buffers[output];
    if (is_layer_norm) {
      context.kernels.layer_norm(in.row(row), weight.data(), bias.empty() ? nullptr : bias.data(),
                                 epsilon, in.columns, out.row(row));
    } else {
      context.kernels.rms_norm(in.row(row), weight.data(), epsilon, in.columns, out.row(row));
    }
  }
};

struct HeadNorm final : RowOp {
  int buffer;
  std::size_t column, heads, head_dim;
  bool is_layer_norm;
  std::vector<float> weight, bias;
  float epsilon;
  std::optional<RowWork> row_work(const Context& context) const override {
    return RowWork{context.buffers[buffer].rows, heads * head_dim};
  }
  void run_row(Context& context, std::size_t row) const override {
    float* head = context.buffers[buffer].row(row) + column;
    for (std::size_t h = 0; h < heads; ++h, head += head_dim) {
      if (is_layer_norm) {
        context.kernels.layer_norm(head, weight.data(), bias.empty() ? nullptr : bias.data(),
                                   epsilon, head_dim, head);
      } else {
        context.kernels.rms_norm(head, weight.data(), epsilon, head_dim, head);
      }
    }
  }
};

struct Copy final : RowOp {
  int input, output;
  std::size_t column;
  std::optional<RowWork> row_work(const Context& context) const override {
    const Buffer& out = context.buffers[output];
    return RowWork{out.rows, out.columns};
  }
  void run_row(Context& context, std::size_t row) const override {
    const Buffer &in = context.buffers[input], &out = context.buffers[output];
    std::memcpy(out.row(row), in.row(row) + column, out.columns * sizeof(float));
  }
};

struct Scale final : RowOp {
  int input, output;
  float factor;
  std::optional<RowWork> row_work(const Context& context) const override {
    const Buffer& out = context.buffers[output];
    return RowWork{out.rows, out.columns};
  }
  void run_row(Context& context, std::size_t row) const override {
    const Buffer &in = context.buffers[input], &out = context.buffers[output];
    context.kernels.scale(in.row(row), factor, in.columns, out.row(row));
  }
};

struct Add final : RowOp {
  int input, output;
  float factor;
  std::optional<RowWork> row_work(const Context& context) const override {
    const Buffer& out = context.buffers[output];
    return RowWork{out.rows, out.columns};
  }
  void run_row(Context& context, std::size_t row) const override {
    const Buffer &in = context.buffers[input], &out = context.buffers[output];
    context.kernels.add_scaled(in.row(row), factor, in.columns, out.row(row));
  }
};

struct Gather final : Op {
  int input, output;
  void run(Context& context) const override {
    const Buffer &in = context.buffers[input], &out = context.buffers[output];
    for (std::size_t i = 0; i < context.step.logit_rows.size(); ++i) {
      const auto row = static_cast<std::size_t>(context.step.logit_rows[i]);
      std::memcpy(out.row(i), in.row(row), in.columns * sizeof(float));
    }
  }
};

struct Pooling final : Op {
  int input, output;
  PoolKind kind;
  bool is_normalised;
  void run(Context& context) const override {
    const Buffer &in = context.buffers[input], &out = context.buffers[output];
    const auto wanted = context.step.logit_rows;
    context.for_rows(wanted.size(), 64 * in.columns, [&](std::size_t index) {
      const Sequence& sequence = context.sequence_of(static_cast<std::size_t>(wanted[index]));
      float* to = out.row(index);
      pool(context.kernels, in, sequence, to);
      if (!is_normalised) return;
      double square = 0;
      for (std::size_t c = 0; c < in.columns; ++c) square += static_cast<double>(to[c]) * to[c];
      const double length = std::max(std::sqrt(square), 1e-12);
      context.kernels.scale(to, static_cast<float>(1 / length), in.columns, to);
    });
  }

  void pool(const Kernels& kernels, const Buffer& in, const Sequence& sequence, float* to) const {
    const std::size_t first = sequence.first_token, count = sequence.num_tokens;
    const std::size_t row = kind == PoolKind::last ? first + count - 1 : first;
    std::memcpy(to, in.row(row), in.columns * sizeof(float));
    if (kind != PoolKind::mean) return;
    for (std::size_t t = 1; t < count; ++t) {
      kernels.add_scaled(in.row(first + t), 1.0f, in.columns, to);
    }
    kernels.scale(to, 1.0f / static_cast<float>(count), in.columns, to);
  }
};

std::unique_ptr<Op> make_norm(const Program& program, int input, int output, bool is_layer_norm,
                              std::vector<float> weight, std::vector<float> bias, float epsilon) {
  const Buffer &in = program.buffer(input), &out = program.buffer(output);
  require(in.columns == weight.size() && out.columns == in.columns && in.rows == out.rows &&
              (bias.empty() || bias.size() == weight.size()),
          "norm: input, output, weight and bias must have the same width.");
  auto op = std::make_unique<Norm>();
  op->input = input;
  op->output = output;
  op->is_layer_norm = is_layer_norm;
  op->weight = std::move(weight);
  op->bias = std::move(bias);
  op->epsilon = epsilon;
  return op;
}

}  // namespace

std::unique_ptr<Op> make_embed(const Program& program, std::shared_ptr<const Linear> table,
                               int output, float scale) {
  require(program.buffer(output).columns == table->inputs() &&
              table->outputs() >= program.limits().vocabulary,
          "embed: the table must be (vocabulary, width of the output).");
  auto op = std::make_unique<Embed>();
  op->table = std::move(table);
  op->output = output;
  op->scale = scale;
  return op;
}

std::unique_ptr<Op> make_inject(const Program& program, int output) {
  require(program.buffer(output).rows == Rows::tokens, "inject: output must have token rows.");
  auto op = std::make_unique<Inject>();
  op->output = output;
  return op;
}

std::unique_ptr<Op> make_rms_norm(const Program& program, int input, int output,
                                  std::vector<float> weight, float epsilon) {
  return make_norm(program, input, output, false, std::move(weight), {}, epsilon);
}

std::unique_ptr<Op> make_layer_norm(const Program& program, int input, int output,
                                    std::vector<float> weight, std::vector<float> bias,
                                    float epsilon) {
  return make_norm(program, input, output, true, std::move(weight), std::move(bias), epsilon);
}

std::unique_ptr<Op> make_head_norm(const Program& program, int buffer, std::size_t column,
                                   std::size_t heads, std::size_t head_dim, bool is_layer_norm,
                                   std::vector<float> weight, std::vector<float> bias,
                                   float epsilon) {
  require(column + heads * head_dim <= program.buffer(buffer).columns,
          "head_norm: the heads must lie within the buffer.");
  require(weight.size() == head_dim && (bias.empty() || bias.size() == head_dim),
          "head_norm: weight and bias must have head_dim entries.");
  auto op = std::make_unique<HeadNorm>();
  op->buffer = buffer;
  op->column = column;
  op->heads = heads;
  op->head_dim = head_dim;
  op->is_layer_norm = is_layer_norm;
  op->weight = std::move(weight);
  op->bias = std::move(bias);
  op->epsilon = epsilon;
  return op;
}

std::unique_ptr<Op> make_copy(const Program& program, int input, int output, std::size_t column) {
  const Buffer &in = program.buffer(input), &out = program.buffer(output);
  require(input != output && in.rows == out.rows && column + out.columns <= in.columns,
          "copy: the columns must lie within another buffer of as many rows.");
  auto op = std::make_unique<Copy>();
  op->input = input;
  op->output = output;
  op->column = column;
  return op;
}

std::unique_ptr<Op> make_scale(const Program& program, int input, int output, float factor) {
  const Buffer &in = program.buffer(input), &out = program.buffer(output);
  require(in.columns == out.columns && in.rows == out.rows,
          "scale: input and output must have the same shape.");
  auto op = std::make_unique<Scale>();
  op->input = input;
  op->output = output;
  op->factor = factor;
  return op;
}

std::unique_ptr<Op> make_add(const Program& program, int input, int output, float factor) {
  const Buffer &in = program.buffer(input), &out = program.buffer(output);
  require(in.columns == out.columns && in.rows == out.rows,
          "add: input and output must have the same shape.");
  auto op = std::make_unique<Add>();
  op->input = input;
  op->output = output;
  op->factor = factor;
  return op;
}

std::unique_ptr<Op> make_gather(const Program& program, int input, int output) {
  const Buffer &in = program.buffer(input), &out = program.buffer(output);
  require(in.rows == Rows::tokens && out.rows == Rows::logits && in.columns == out.columns,
          "gather: token rows to logit rows of the same width.");
  auto op = std::make_unique<Gather>();
  op->input = input;
  op->output = output;
  return op;
}

std::unique_ptr<Op> make_pool(const Program& program, int input, int output, PoolKind kind,
                              bool is_normalised) {
  const Buffer &in = program.buffer(input), &out = program.buffer(output);
  require(in.rows == Rows::tokens && out.rows == Rows::logits && in.columns == out.columns,
          "pool: token rows to logit rows of the same width.");
  auto op = std::make_unique<Pooling>();
  op->input = input;
  op->output = output;
  op->kind = kind;
  op->is_normalised = is_normalised;
  return op;
}

}  // namespace yearling
