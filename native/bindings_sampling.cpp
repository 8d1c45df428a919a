// Sampling and scoring, as methods of a program.
#include "bindings.hpp"
#include "sampling.hpp"

using namespace nanobind::literals;

namespace yearling {
namespace {

// Ranges of flat arrays: offsets[i] to offsets[i + 1].
template <typename T>
std::span<const T> range(const Array<T, 1>& values, const Ints& offsets, std::size_t index) {
  const std::int32_t begin = offsets.data()[index], end = offsets.data()[index + 1];
  require(begin >= 0 && begin <= end && static_cast<std::size_t>(end) <= values.shape(0),
          "offsets must rise and stay within their array.");
  return {values.data() + begin, static_cast<std::size_t>(end - begin)};
}

void require_tokens(std::span<const std::int32_t> tokens, std::size_t vocabulary) {
  for (const std::int32_t token : tokens) {
    require(token >= 0 && static_cast<std::size_t>(token) < vocabulary,
            "a token id is outside the vocabulary.");
  }
}

std::span<const std::uint32_t> mask_of(const Words& allowed, std::int32_t row) {
  if (row < 0) return {};
  return {allowed.data() + static_cast<std::size_t>(row) * allowed.shape(1), allowed.shape(1)};
}

struct SampledArrays {
  std::int32_t *tokens, *top_tokens;
  float *logprobs, *top_logprobs;
  nb::object result;
  SampledArrays(std::size_t rows, std::size_t alternatives) {
    nb::object a = new_array<std::int32_t>({rows}, &tokens);
    nb::object b = new_array<float>({rows}, &logprobs);
    nb::object c = new_array<std::int32_t>({rows, alternatives}, &top_tokens);
    nb::object d = new_array<float>({rows, alternatives}, &top_logprobs);
    result = nb::make_tuple(a, b, c, d);
  }
};

std::size_t most_alternatives(const Ints& num_logprobs, std::size_t vocabulary) {
  std::int32_t most = 0;
  for (const std::int32_t wanted : span_of(num_logprobs)) most = std::max(most, wanted);
  require(static_cast<std::size_t>(most) <= vocabulary, "more alternatives than tokens.");
  return static_cast<std::size_t>(most);
}

// One thread's scratch space; it lives as long as the thread, so steps allocate nothing.
SamplingScratch& thread_scratch() {
  thread_local SamplingScratch scratch;
  return scratch;
}

nb::object sample(Program& program, int buffer, const Ints& rows, const Vector& temperature,
                  const Ints& top_k, const Vector& top_p, const Vector& min_p,
                  const Vector& repetition, const Vector& presence, const Vector& frequency,
                  const Longs& seeds, const Longs& output_indices, const Ints& history,
                  const Ints& history_offsets, const Ints& num_generated, const Ints& bias_tokens,
                  const Vector& bias_values, const Ints& bias_offsets, const Words& allowed,
                  const Ints& allowed_rows, const Ints& num_logprobs) {
  const Buffer& logits = program.buffer(buffer);
  const std::size_t count = rows.shape(0), vocabulary = logits.columns;
  for (const std::size_t size :
       {temperature.shape(0), top_k.shape(0), top_p.shape(0), min_p.shape(0), repetition.shape(0),
        presence.shape(0), frequency.shape(0), seeds.shape(0), output_indices.shape(0),
        history_offsets.shape(0) - 1, num_generated.shape(0), bias_offsets.shape(0) - 1,
        allowed_rows.shape(0), num_logprobs.shape(0)}) {
    require(size == count, "sample: every parameter needs one entry per row.");
  }
  const std::size_t words = allowed.shape(1);
  require(allowed.shape(0) == 0 || words == (vocabulary + 31) / 32,
          "sample: a mask has a bit for every token.");
  require(bias_tokens.shape(0) == bias_values.shape(0), "sample: one value per biased token.");
  require_tokens(span_of(history), vocabulary);
  require_tokens(span_of(bias_tokens), vocabulary);
  std::vector<Choice> choices;
  choices.reserve(count);
  for (std::size_t i = 0; i < count; ++i) {
    const auto past = range(history, history_offsets, i);
    require(num_generated.data()[i] >= 0 &&
                static_cast<std::size_t>(num_generated.data()[i]) <= past.size(),
            "sample: num_generated counts entries of the history.");
    require(rows.data()[i] >= 0 &&
                static_cast<std::size_t>(rows.data()[i]) < program.limits().logit_rows,
            "sample: no such row of logits.");
    const std::int32_t mask = allowed_rows.data()[i];
    require(mask < 0 || static_cast<std::size_t>(mask) < allowed.shape(0),
            "sample: no such mask.");
    choices.push_back({temperature.data()[i], top_p.data()[i], min_p.data()[i],
                       repetition.data()[i], presence.data()[i], frequency.data()[i],
                       static_cast<std::uint32_t>(top_k.data()[i]), seeds.data()[i],
                       output_indices.data()[i], past,
                       static_cast<std::size_t>(num_generated.data()[i]),
                       range(bias_tokens, bias_offsets, i), range(bias_values, bias_offsets, i),
                       mask_of(allowed, mask), num_logprobs.data()[i]});
  }
  const std::size_t alternatives = most_alternatives(num_logprobs, vocabulary);
  SampledArrays out(count, alternatives);
  {
    const nb::gil_scoped_release release;
    program.pool().parallel_for(count, [&](std::size_t i) {
      float* row = logits.row(static_cast<std::size_t>(rows.data()[i]));
      const Chosen chosen = choose_token(program.kernels(), {row, vocabulary}, choices[i],
                                         thread_scratch(), out.top_tokens + i * alternatives,
                                         out.top_logprobs + i * alternatives);
      out.tokens[i] = chosen.token;
      out.logprobs[i] = chosen.logprob;
    });
  }
  return out.result;
}

nb::object score(Program& program, int buffer, const Ints& rows, const Ints& targets,
                 const Ints& num_logprobs) {
  const Buffer& logits = program.buffer(buffer);
  const std::size_t count = rows.shape(0), vocabulary = logits.columns;
  require(targets.shape(0) == count && num_logprobs.shape(0) == count,
          "score: every parameter needs one entry per row.");
  require_tokens(span_of(targets), vocabulary);
  for (const std::int32_t row : span_of(rows)) {
    require(row >= 0 && static_cast<std::size_t>(row) < program.limits().logit_rows,
            "score: no such row of logits.");
  }
  const std::size_t alternatives = most_alternatives(num_logprobs, vocabulary);
  SampledArrays out(count, alternatives);
  {
    const nb::gil_scoped_release release;
    program.pool().parallel_for(count, [&](std::size_t i) {
      const float* row = logits.row(static_cast<std::size_t>(rows.data()[i]));
      const Chosen scored =
          score_token(program.kernels(), {row, vocabulary}, targets.data()[i],
                      num_logprobs.data()[i], thread_scratch(),
                      out.top_tokens + i * alternatives, out.top_logprobs + i * alternatives);
      out.tokens[i] = scored.token;
      out.logprobs[i] = scored.logprob;
    });
  }
  return out.result;
}

}  // namespace

void bind_sampling(nb::class_<Program>& program) {
  program
      .def("sample", &sample, "buffer"_a, "rows"_a, "temperature"_a, "top_k"_a, "top_p"_a,
           "min_p"_a, "repetition"_a, "presence"_a, "frequency"_a, "seeds"_a, "output_indices"_a,
           "history"_a, "history_offsets"_a, "num_generated"_a, "bias_tokens"_a, "bias_values"_a,
           "bias_offsets"_a, "allowed"_a, "allowed_rows"_a, "num_logprobs"_a)
      .def("score", &score, "buffer"_a, "rows"_a, "targets"_a, "num_logprobs"_a);
}

}  // namespace yearling
