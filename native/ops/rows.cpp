// Operations that work row by row: embed, inject, norms, gate, gather, rotary.
#include <cstring>

#include "ops.hpp"

namespace yearling {
namespace {

struct Embed final : Op {
  std::shared_ptr<const Linear> table;
  int output;
  void run(Context& context) const override {
    const Buffer& out = context.buffers[output];
    context.for_rows(context.step.tokens.size(), 4 * out.columns, [&](std::size_t row) {
      table->unpack_row(static_cast<std::size_t>(context.step.tokens[row]), out.row(row));
    });
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

struct Norm final : Op {
  int input, output;
  bool is_layer_norm;
  std::vector<float> weight, bias;
  float epsilon;
  void run(Context& context) const override {
    const Buffer &in = context.buffers[input], &out = context.buffers[output];
    context.for_rows(context.num_rows(in.rows), in.columns, [&](std::size_t row) {
      if (is_layer_norm) {
        context.kernels.layer_norm(in.row(row), weight.data(), bias.empty() ? nullptr : bias.data(),
                                   epsilon, in.columns, out.row(row));
      } else {
        context.kernels.rms_norm(in.row(row), weight.data(), epsilon, in.columns, out.row(row));
      }
    });
  }
};

struct SiluGate final : Op {
  int input, output;
  void run(Context& context) const override {
    const Buffer &in = context.buffers[input], &out = context.buffers[output];
    context.for_rows(context.num_rows(in.rows), 4 * out.columns, [&](std::size_t row) {
      const float* gate = in.row(row);
      context.kernels.silu_gate(gate, gate + out.columns, out.columns, out.row(row));
    });
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

struct Rotary final : Op {
  int buffer;
  std::size_t column, heads, head_dim, half;
  std::shared_ptr<const std::vector<float>> cosine, sine;
  void run(Context& context) const override {
    const Buffer& in = context.buffers[buffer];
    context.for_rows(context.step.tokens.size(), heads * head_dim, [&](std::size_t row) {
      const std::size_t angle = context.scratch.positions[row] * half;
      float* head = in.row(row) + column;
      for (std::size_t h = 0; h < heads; ++h, head += head_dim) {
        context.kernels.rotate_half(head, cosine->data() + angle, sine->data() + angle, half);
      }
    });
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
                               int output) {
  require(program.buffer(output).columns == table->inputs() &&
              table->outputs() >= program.limits().vocabulary,
          "embed: the table must be (vocabulary, width of the output).");
  auto op = std::make_unique<Embed>();
  op->table = std::move(table);
  op->output = output;
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

std::unique_ptr<Op> make_silu_gate(const Program& program, int input, int output) {
  const Buffer &in = program.buffer(input), &out = program.buffer(output);
  require(in.columns == 2 * out.columns && in.rows == out.rows,
          "gate: input must be twice as wide as output.");
  auto op = std::make_unique<SiluGate>();
  op->input = input;
  op->output = output;
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

std::unique_ptr<Op> make_rotary(const Program& program, int buffer, std::size_t column,
                                std::size_t heads, std::size_t head_dim,
                                std::shared_ptr<const std::vector<float>> cosine,
                                std::shared_ptr<const std::vector<float>> sine, std::size_t dims) {
  const Buffer& in = program.buffer(buffer);
  require(in.rows == Rows::tokens && column + heads * head_dim <= in.columns,
          "rotary: the heads must lie within the buffer.");
  require(dims % 2 == 0 && dims <= head_dim, "rotary: dims must be even and at most head_dim.");
  const std::size_t entries = program.limits().context * dims / 2;
  require(cosine->size() >= entries && sine->size() >= entries,
          "rotary: cosine and sine must be (context, dims / 2).");
  auto op = std::make_unique<Rotary>();
  op->buffer = buffer;
  op->column = column;
  op->heads = heads;
  op->head_dim = head_dim;
  op->half = dims / 2;
  op->cosine = std::move(cosine);
  op->sine = std::move(sine);
  return op;
}

}  // namespace yearling
