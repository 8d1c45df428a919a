// Mixture of experts: rows are gathered by expert, so that each expert's weights are read once.
//
// A row's arithmetic is that of the expert's layers on the row alone, and its results are added
// in order of the experts' numbers, so company does not change it.
#include <cmath>

#include "ops.hpp"

namespace yearling {
namespace {

struct Experts final : Op {
  int input, router, output;
  ExpertLayer layer;

  std::size_t count() const { return layer.first.size(); }
  std::size_t width() const { return layer.second[0]->outputs(); }
  std::size_t first_width() const { return layer.first[0]->outputs(); }
  std::size_t hidden() const { return layer.second[0]->inputs(); }

  // A pair is a row's visit to one of its experts. Pairs are sorted by expert.
  struct Working {
    std::int32_t* experts;   // [rows][active], rising
    std::uint32_t* places;   // [rows][active], the pair's number
    float* shares;           // [rows][active]
    std::size_t* first;      // [experts + 1], each expert's first pair
    float *probabilities;    // [rows][experts]
    float *gathered, *wide, *activated, *results;  // per pair
  };
  // Lays the parts out one behind the other; returns their size.
  std::size_t lay_out(std::size_t rows, std::byte* memory, Working& working) const {
    const std::size_t pairs = rows * layer.active;
    std::size_t used = 0;
    const auto take = [&]<typename T>(T*& part, std::size_t entries) {
      part = memory ? reinterpret_cast<T*>(memory + used) : nullptr;
      used += (entries * sizeof(T) + 63) / 64 * 64;
    };
    take(working.experts, pairs);
    take(working.places, pairs);
    take(working.shares, pairs);
    take(working.first, count() + 1);
    take(working.probabilities, rows * count());
    take(working.gathered, pairs * width());
    take(working.wide, pairs * first_width());
    take(working.activated, layer.is_gated ? pairs * hidden() : 0);
    take(working.results, pairs * width());
    return used;
  }

  void collect(Requirements& needs) const override {
    Working working;
    const std::size_t rows = needs.limits.step_tokens, pairs = rows * layer.active;
    needs.need_working(lay_out(rows, nullptr, working));
    for (std::size_t e = 0; e < count(); ++e) {
      if (layer.first[e]->is_quantized()) needs.need_quantized(pairs, width());
      if (layer.second[e]->is_quantized()) needs.need_quantized(pairs, hidden());
    }
  }

  // The experts of the largest logits, and their shares of the row's result.
  void choose(const Kernels& kernels, const float* logits, std::size_t row,
              const Working& working) const {
    float* probabilities = working.probabilities + row * count();
    const float most = *std::max_element(logits, logits + count());
    kernels.exponentials(logits, count(), most, 1.0f, probabilities);
    std::int32_t* chosen = working.experts + row * layer.active;
    for (std::size_t i = 0; i < layer.active; ++i) {
      std::size_t best = count();
      for (std::size_t e = 0; e < count(); ++e) {
        const bool is_taken =
            std::find(chosen, chosen + i, static_cast<std::int32_t>(e)) != chosen + i;
        if (!is_taken && (best == count() || logits[e] > logits[best])) best = e;
      }
      chosen[i] = static_cast<std::int32_t>(best);
    }
    std::sort(chosen, chosen + layer.active);
    float total = 0;
    if (layer.is_softmax_first && !layer.is_renormalised) {
      for (std::size_t e = 0; e < count(); ++e) total += probabilities[e];
    } else {
      for (std::size_t i = 0; i < layer.active; ++i) total += probabilities[chosen[i]];
    }
    // A comparison with NaN never chooses it, but a broken row must not come out sound.
    for (std::size_t e = 0; e < count(); ++e) {
      if (std::isnan(logits[e])) total = logits[e];
    }
    for (std::size_t i = 0; i < layer.active; ++i) {
      working.shares[row * layer.active + i] = probabilities[chosen[i]] / total;
    }
  }

  void sort_pairs(std::size_t rows, const Working& working) const {
    std::size_t* first = working.first;
    std::fill_n(first, count() + 1, 0);
    for (std::size_t pair = 0; pair < rows * layer.active; ++pair) {
      ++first[working.experts[pair] + 1];
    }
    for (std::size_t e = 0; e < count(); ++e) first[e + 1] += first[e];
    for (std::size_t pair = 0; pair < rows * layer.active; ++pair) {
      working.places[pair] = static_cast<std::uint32_t>(first[working.experts[pair]]++);
    }
    for (std::size_t e = count(); e > 0; --e) first[e] = first[e - 1];
    first[0] = 0;
  }

  // All experts' products of one of their two layers, in one job.
  void multiply(Context& context, const std::vector<std::shared_ptr<const Linear>>& weights,
                const std::size_t* first, const float* in, float* out) const {
    QuantizedRows quantized = context.scratch.quantized;
    quantized.row_groups = weights[0]->groups();
    const auto work_of = [&](std::size_t e) {
      const Linear& matrix = *weights[e];
      return LinearWork(matrix, in, matrix.inputs(), quantized, {first[e], first[e + 1]},
                        {out, matrix.outputs(), nullptr, false});
    };
    std::size_t chunks = 0;
    for (std::size_t e = 0; e < count(); ++e) chunks += work_of(e).chunks();
    context.pool.parallel_for(chunks, [&](std::size_t chunk) {
      for (std::size_t e = 0; e < count(); ++e) {
        const LinearWork work = work_of(e);
        if (chunk < work.chunks()) return work.run(context, chunk);
        chunk -= work.chunks();
      }
    });
  }

  void quantize(Context& context, const std::vector<std::shared_ptr<const Linear>>& weights,
                const float* values, float reach, std::size_t pair) const {
    QuantizedRows quantized = context.scratch.quantized;
    quantized.row_groups = weights[0]->groups();
    if (!weights[0]->is_quantized()) return;
    context.kernels.quantize_row(values, weights[0]->inputs(), reach, quantized, pair);
  }

  void run(Context& context) const override {
    const Buffer &in = context.buffers[input], &out = context.buffers[output];
    const Buffer& logits = context.buffers[router];
    const std::size_t rows = context.step.tokens.size(), pairs = rows * layer.active;
    Working working;
    lay_out(rows, context.scratch.working->data(), working);
    context.for_rows(rows, (layer.active + 4) * count(), [&](std::size_t row) {
      choose(context.kernels, logits.row(row), row, working);
    });
    sort_pairs(rows, working);
    context.for_rows(pairs, 2 * in.columns, [&](std::size_t visit) {
      const std::size_t pair = working.places[visit];
      float* to = working.gathered + pair * in.columns;
      std::copy_n(in.row(visit / layer.active), in.columns, to);
      quantize(context, layer.first, to, kCodeReach, pair);
    });
    multiply(context, layer.first, working.first, working.gathered, working.wide);
    float* hidden_rows = layer.is_gated ? working.activated : working.wide;
    const auto kind = static_cast<std::size_t>(layer.activation);
    context.for_rows(pairs, 4 * hidden(), [&](std::size_t pair) {
      float* to = hidden_rows + pair * hidden();
      const float* from = working.wide + pair * first_width();
      if (layer.is_gated) {
        context.kernels.gate[kind](from, from + hidden(), hidden(), to);
      } else {
        context.kernels.activate[kind](to, hidden());
      }
      quantize(context, layer.second, to, kAddedReach, pair);
    });
    multiply(context, layer.second, working.first, hidden_rows, working.results);
    context.for_rows(rows, layer.active * out.columns, [&](std::size_t row) {
      for (std::size_t i = row * layer.active; i < (row + 1) * layer.active; ++i) {
        const float* result = working.results + working.places[i] * out.columns;
        context.kernels.add_scaled(result, working.shares[i], out.columns, out.row(row));
      }
    });
  }
};

void require_alike(const std::vector<std::shared_ptr<const Linear>>& matrices) {
  for (const auto& matrix : matrices) {
    require(matrix->inputs() == matrices[0]->inputs() &&
                matrix->outputs() == matrices[0]->outputs() &&
                matrix->is_quantized() == matrices[0]->is_quantized(),
            "experts: all experts must have one shape, and be quantised or not together.");
  }
}

}  // namespace

std::unique_ptr<Op> make_experts(const Program& program, int input, int router, int output,
                                 ExpertLayer layer) {
  const Buffer &in = program.buffer(input), &out = program.buffer(output);
  const Buffer& logits = program.buffer(router);
  const std::size_t count = layer.first.size();
  require(count > 0 && layer.second.size() == count && logits.columns == count,
          "experts: both layers need one matrix per router logit.");
  require(layer.active > 0 && layer.active <= count,
          "experts: active experts must be 1 to as many as there are.");
  require_alike(layer.first);
  require_alike(layer.second);
  const std::size_t hidden = layer.second[0]->inputs();
  require(in.rows == Rows::tokens && out.rows == Rows::tokens && logits.rows == Rows::tokens,
          "experts: input, router and output need token rows.");
  require(input != output && in.columns == layer.first[0]->inputs() &&
              in.columns == out.columns && out.columns == layer.second[0]->outputs() &&
              layer.first[0]->outputs() == (layer.is_gated ? 2 * hidden : hidden),
          "experts: the matrices must fit the input, the output and each other.");
  auto op = std::make_unique<Experts>();
  op->input = input;
  op->router = router;
  op->output = output;
  op->layer = std::move(layer);
  return op;
}

}  // namespace yearling
