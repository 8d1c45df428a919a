// Mamba's convolution and scan: what a sequence remembers lies in its state slot.
#include "ops.hpp"

namespace yearling {
namespace {

constexpr std::size_t kEight = 8;  // channels that are computed together

std::size_t padded(std::size_t channels) { return (channels + kEight - 1) / kEight * kEight; }

// Runs body(sequence, range of channels) for all sequences of the step, in parallel. A sequence's
// tokens follow one another, so only sequences and channels can be shared out.
template <typename Body>
void for_channels(Context& context, std::size_t channels, std::size_t channel_work, Body&& body) {
  constexpr std::size_t kWorth = 8192;
  const std::size_t eights = padded(channels) / kEight, work = kEight * channel_work;
  const std::size_t tokens = context.step.tokens.size() / context.step.sequences.size();
  const std::size_t most = 4 * static_cast<std::size_t>(context.pool.threads());
  const std::size_t worth = std::max<std::size_t>(1, eights * work * tokens / kWorth);
  const std::size_t parts = std::min({eights, most, worth});
  const std::size_t share = (eights + parts - 1) / parts * kEight;
  context.pool.parallel_for(context.step.sequences.size() * parts, [&](std::size_t index) {
    const RowRange range{std::min(channels, index % parts * share),
                         std::min(channels, (index % parts + 1) * share)};
    if (range.begin < range.end) body(context.step.sequences[index / parts], range);
  });
}

struct Convolution final : Op {
  int input, output;
  std::size_t channels, taps;
  std::vector<float> weight, bias;     // [taps][padded], [padded]
  std::unique_ptr<LazyMemory> past;    // [slots][taps - 1][padded]

  void collect(Requirements& needs) const override {
    needs.slot_bytes += (taps - 1) * padded(channels) * sizeof(float);
  }

  void run(Context& context) const override {
    const Buffer &in = context.buffers[input], &out = context.buffers[output];
    const std::size_t width = padded(channels);
    for_channels(context, channels, taps + 8, [&](const Sequence& sequence, RowRange range) {
      float* before = past->floats() + sequence.slot * (taps - 1) * width;
      if (sequence.start == 0) {
        for (std::size_t k = 0; k + 1 < taps; ++k) {
          std::fill(before + k * width + range.begin, before + k * width + padded(range.end), 0.0f);
        }
      }
      context.kernels.convolve({in.row(sequence.first_token), in.columns,
                                out.row(sequence.first_token), out.columns, before, weight.data(),
                                bias.data(), sequence.num_tokens, taps, channels, width,
                                range.begin, range.end});
    });
  }
};

struct SelectiveScan final : Op {
  ScanBuffers buffers;
  std::size_t channels, states;
  std::vector<float> matrix, skip;      // [padded / 8][states][8], [padded]
  std::unique_ptr<LazyMemory> memory;   // [slots][padded / 8][states][8]

  void collect(Requirements& needs) const override {
    needs.slot_bytes += padded(channels) * states * sizeof(float);
  }

  void run(Context& context) const override {
    const auto& at = context.buffers;
    const Buffer &in = at[buffers.input], &time_step = at[buffers.time_step];
    const Buffer &parameters = at[buffers.parameters], &gate = at[buffers.gate];
    const Buffer& out = at[buffers.output];
    const std::size_t slot_floats = padded(channels) * states;
    for_channels(context, channels, 4 * states + 16, [&](const Sequence& s, RowRange range) {
      const std::size_t row = s.first_token;
      float* state = memory->floats() + s.slot * slot_floats;
      if (s.start == 0) {
        std::fill(state + range.begin * states, state + padded(range.end) * states, 0.0f);
      }
      context.kernels.scan({in.row(row), time_step.row(row),
                            parameters.row(row) + buffers.input_column,
                            parameters.row(row) + buffers.output_column,
                            gate.row(row) + buffers.gate_column, in.columns, time_step.columns,
                            parameters.columns, gate.columns, out.row(row), out.columns, state,
                            matrix.data(), skip.data(), s.num_tokens, states, channels,
                            range.begin, range.end});
    });
  }
};

}  // namespace

std::unique_ptr<Op> make_convolution(const Program& program, int input, int output,
                                     std::size_t taps, std::vector<float> weight,
                                     std::vector<float> bias) {
  const Buffer &in = program.buffer(input), &out = program.buffer(output);
  const std::size_t channels = out.columns, width = padded(channels);
  require(input != output && in.rows == Rows::tokens && out.rows == Rows::tokens &&
              channels <= in.columns,
          "convolution: the channels must be columns of another buffer with token rows.");
  require(taps > 0 && weight.size() == channels * taps &&
              (bias.empty() || bias.size() == channels),
          "convolution: weight must be (channels, taps), and bias have one entry per channel.");
  auto op = std::make_unique<Convolution>();
  op->input = input;
  op->output = output;
  op->channels = channels;
  op->taps = taps;
  op->weight.resize(taps * width);
  for (std::size_t c = 0; c < channels; ++c) {
    for (std::size_t k = 0; k < taps; ++k) op->weight[k * width + c] = weight[c * taps + k];
  }
  op->bias = std::move(bias);
  op->bias.resize(width);
  op->past = std::make_unique<LazyMemory>(program.limits().state_slots * (taps - 1) * width * 4);
  return op;
}

std::unique_ptr<Op> make_selective_scan(const Program& program, const ScanBuffers& buffers,
                                        std::vector<float> matrix, std::vector<float> skip) {
  const std::size_t channels = skip.size(), width = padded(channels);
  require(channels > 0 && matrix.size() % channels == 0 && !matrix.empty(),
          "selective_scan: matrix must be (channels, states), and skip (channels,).");
  const std::size_t states = matrix.size() / channels;
  for (const int number : {buffers.input, buffers.time_step, buffers.parameters, buffers.gate,
                           buffers.output}) {
    require(program.buffer(number).rows == Rows::tokens,
            "selective_scan: all buffers need token rows.");
  }
  require(program.buffer(buffers.input).columns == channels &&
              program.buffer(buffers.time_step).columns == channels &&
              program.buffer(buffers.output).columns == channels,
          "selective_scan: input, time step and output need one column per channel.");
  const std::size_t parameters = program.buffer(buffers.parameters).columns;
  require(buffers.input_column + states <= parameters &&
              buffers.output_column + states <= parameters &&
              buffers.gate_column + channels <= program.buffer(buffers.gate).columns,
          "selective_scan: B, C and the gate must lie within their buffers.");
  auto op = std::make_unique<SelectiveScan>();
  op->buffers = buffers;
  op->channels = channels;
  op->states = states;
  op->matrix.resize(width * states);
  for (std::size_t c = 0; c < channels; ++c) {
    for (std::size_t n = 0; n < states; ++n) {
      op->matrix[c / kEight * kEight * states + n * kEight + c % kEight] = matrix[c * states + n];
    }
  }
  op->skip = std::move(skip);
  op->skip.resize(width);
  op->memory = std::make_unique<LazyMemory>(program.limits().state_slots * width * states * 4);
  return op;
}

}  // namespace yearling
