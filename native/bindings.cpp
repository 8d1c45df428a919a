// The module yearling.kernels._native: thin, typed, and without the GIL while it computes.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>

#include <cmath>
#include <limits>
#include <optional>

#include "ops/ops.hpp"
#include "sampling.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace yearling {
namespace {

template <typename T, std::size_t Dims>
using Array = nb::ndarray<const T, nb::ndim<Dims>, nb::c_contig, nb::device::cpu>;
using Vector = Array<float, 1>;
using Ints = Array<std::int32_t, 1>;
using Longs = Array<std::uint64_t, 1>;

template <typename T>
std::span<const T> span_of(const Array<T, 1>& array) {
  return {array.data(), array.shape(0)};
}

std::vector<float> copy(const std::optional<Vector>& array) {
  return array ? std::vector<float>(array->data(), array->data() + array->shape(0))
               : std::vector<float>();
}

// A matrix that several operations share.
struct Table {
  std::shared_ptr<const std::vector<float>> values;
  std::size_t columns;
  explicit Table(const Array<float, 2>& array)
      : values(std::make_shared<const std::vector<float>>(array.data(),
                                                          array.data() + array.size())),
        columns(array.shape(1)) {}
};

// A NumPy array that owns its data.
template <typename T>
nb::object new_array(std::initializer_list<std::size_t> shape, T** data) {
  std::size_t size = 1;
  for (const std::size_t extent : shape) size *= extent;
  *data = new T[std::max<std::size_t>(size, 1)]();
  nb::capsule owner(*data, [](void* memory) noexcept { delete[] static_cast<T*>(memory); });
  return nb::cast(nb::ndarray<nb::numpy, T>(*data, shape, owner));
}

WeightKind kind_named(const std::string& name) {
  if (name == "int4") return WeightKind::int4;
  if (name == "int8") return WeightKind::int8;
  if (name == "float16") return WeightKind::float16;
  if (name == "bfloat16") return WeightKind::bfloat16;
  if (name == "float32") return WeightKind::float32;
  throw std::invalid_argument("no weight kind is named '" + name +
                              "'; known: int4, int8, float16, bfloat16, float32.");
}

const char* name_of(WeightKind kind) {
  constexpr const char* kNames[] = {"int4", "int8", "float16", "bfloat16", "float32"};
  return kNames[static_cast<int>(kind)];
}

CacheType cache_type_named(const std::string& name) {
  if (name == "float32") return CacheType::float32;
  if (name == "float16") return CacheType::float16;
  throw std::invalid_argument("no cache type is named '" + name + "'; known: float32, float16.");
}

void pack(Linear& linear, std::size_t first, std::size_t rows, const std::string& format,
          const Array<std::uint8_t, 1>& data) {
  const auto* bytes = reinterpret_cast<const std::byte*>(data.data());
  const std::size_t size = data.size();
  const nb::gil_scoped_release release;
  linear.pack(first, rows, format, bytes, size);
}

nb::object unpack(const Linear& linear) {
  float* values;
  nb::object array = new_array<float>({linear.outputs(), linear.inputs()}, &values);
  for (std::size_t row = 0; row < linear.outputs(); ++row) {
    linear.unpack_row(row, values + row * linear.inputs());
  }
  return array;
}

// Sequences are given as first positions and lengths, in the order of the step's tokens.
void run(Program& program, const Ints& tokens, const Ints& starts, const Ints& lengths,
         const Array<std::int32_t, 2>& block_tables, const Ints& logit_rows,
         const std::optional<Ints>& inject_rows,
         const std::optional<Array<float, 2>>& inject_values) {
  const std::size_t count = starts.shape(0), width = block_tables.shape(1);
  require(lengths.shape(0) == count && block_tables.shape(0) == count,
          "starts, lengths and block_tables must have one entry per sequence.");
  std::vector<Sequence> sequences;
  sequences.reserve(count);
  std::size_t first = 0;
  for (std::size_t s = 0; s < count; ++s) {
    require(starts.data()[s] >= 0 && lengths.data()[s] > 0,
            "starts must not be negative and lengths must be positive.");
    const auto start = static_cast<std::size_t>(starts.data()[s]);
    const auto length = static_cast<std::size_t>(lengths.data()[s]);
    require((start + length + kBlockTokens - 1) / kBlockTokens <= width,
            "a block table is too short for its sequence.");
    sequences.push_back({first, length, start, block_tables.data() + s * width});
    first += length;
  }
  Injection injection{{}, nullptr};
  if (inject_rows) {
    require(inject_values && inject_values->shape(0) == inject_rows->shape(0),
            "inject_values needs one row per entry of inject_rows.");
    require(inject_values->shape(1) == program.buffer(0).columns,
            "inject_values must be as wide as the residual stream.");
    injection = {span_of(*inject_rows), inject_values->data()};
  }
  const Step step{span_of(tokens), sequences, span_of(logit_rows), injection};
  const nb::gil_scoped_release release;
  program.run(step);
}

// A view of a buffer's rows; overwritten by the next step.
nb::object view(const Program& program, int buffer, std::size_t rows) {
  const Buffer& from = program.buffer(buffer);
  const std::size_t most =
      from.rows == Rows::tokens ? program.limits().step_tokens : program.limits().logit_rows;
  require(rows <= most, "the buffer has fewer rows than that.");
  return nb::cast(nb::ndarray<nb::numpy, float, nb::ndim<2>>(from.row(0), {rows, from.columns},
                                                             nb::find(program)));
}

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
                  const Vector& bias_values, const Ints& bias_offsets, const Ints& num_logprobs) {
  const Buffer& logits = program.buffer(buffer);
  const std::size_t count = rows.shape(0), vocabulary = logits.columns;
  for (const std::size_t size :
       {temperature.shape(0), top_k.shape(0), top_p.shape(0), min_p.shape(0), repetition.shape(0),
        presence.shape(0), frequency.shape(0), seeds.shape(0), output_indices.shape(0),
        history_offsets.shape(0) - 1, num_generated.shape(0), bias_offsets.shape(0) - 1,
        num_logprobs.shape(0)}) {
    require(size == count, "sample: every parameter needs one entry per row.");
  }
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
    choices.push_back({temperature.data()[i], top_p.data()[i], min_p.data()[i],
                       repetition.data()[i], presence.data()[i], frequency.data()[i],
                       static_cast<std::uint32_t>(top_k.data()[i]), seeds.data()[i],
                       output_indices.data()[i], past,
                       static_cast<std::size_t>(num_generated.data()[i]),
                       range(bias_tokens, bias_offsets, i), range(bias_values, bias_offsets, i),
                       num_logprobs.data()[i]});
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

Program* make_program(std::size_t step_tokens, std::size_t logit_rows,
                                      std::size_t context, std::size_t vocabulary,
                                      std::size_t cache_blocks, const std::string& cache_type,
                                      const std::string& kernels, std::shared_ptr<Pool> pool) {
  require(step_tokens > 0 && logit_rows > 0 && context > 0 && vocabulary > 0 && cache_blocks > 0,
          "a program's limits must be positive.");
  const Limits limits{step_tokens, logit_rows, context, vocabulary, cache_blocks};
  return new Program(limits, cache_type_named(cache_type),
                     select_kernels(kernels.c_str()), std::move(pool));
}

void bind_ops(nb::class_<Program>& program) {
  program
      .def("embed",
           [](Program& p, std::shared_ptr<Linear> table, int output) {
             p.append(make_embed(p, std::move(table), output));
           })
      .def("inject", [](Program& p, int output) { p.append(make_inject(p, output)); })
      .def("rms_norm",
           [](Program& p, int input, int output, const Vector& weight, float epsilon) {
             p.append(make_rms_norm(p, input, output, copy(weight), epsilon));
           })
      .def("layer_norm",
           [](Program& p, int input, int output, const Vector& weight,
              const std::optional<Vector>& bias, float epsilon) {
             p.append(make_layer_norm(p, input, output, copy(weight), copy(bias), epsilon));
           },
           "input"_a, "output"_a, "weight"_a, "bias"_a.none(), "epsilon"_a)
      .def("linear",
           [](Program& p, int input, int output, std::shared_ptr<Linear> weights,
              const std::optional<Vector>& bias, std::size_t column, bool accumulates) {
             p.append(make_linear(p, input, output, std::move(weights), copy(bias), column,
                                  accumulates));
           },
           "input"_a, "output"_a, "weights"_a, "bias"_a.none(), "column"_a, "accumulates"_a)
      .def("rotary",
           [](Program& p, int buffer, std::size_t column, std::size_t heads, std::size_t head_dim,
              const Table& cosine, const Table& sine) {
             p.append(make_rotary(p, buffer, column, heads, head_dim, cosine.values, sine.values,
                                  2 * cosine.columns));
           })
      .def("write_kv",
           [](Program& p, int input, std::size_t layer, std::size_t key_column,
              std::size_t value_column, std::size_t kv_heads, std::size_t head_dim) {
             p.append(make_write_kv(p, input, layer, key_column, value_column, kv_heads, head_dim));
           })
      .def("attention",
           [](Program& p, int input, int output, std::size_t layer, std::size_t heads,
              std::size_t kv_heads, std::size_t head_dim, float scale) {
             p.append(make_attention(p, input, output, layer, heads, kv_heads, head_dim, scale));
           })
      .def("silu_gate",
           [](Program& p, int input, int output) { p.append(make_silu_gate(p, input, output)); })
      .def("gather",
           [](Program& p, int input, int output) { p.append(make_gather(p, input, output)); });
}

}  // namespace
}  // namespace yearling

NB_MODULE(_native, module) {
  using namespace yearling;
  // A model that is still open when Python ends is no leak worth telling the user of.
  nb::set_leak_warnings(false);
  module.doc() = "Yearling's native core: weights, thread pool, step programs, sampling.";

  nb::class_<Pool>(module, "Pool")
      .def(nb::init<int>(), "threads"_a = 0)
      .def_prop_ro("threads", &Pool::threads);

  nb::class_<Table>(module, "Table").def(nb::init<const Array<float, 2>&>(), "values"_a);

  nb::class_<Linear>(module, "Linear")
      .def("__init__",
           [](Linear* self, const std::string& kind, std::size_t outputs, std::size_t inputs) {
             new (self) Linear(kind_named(kind), outputs, inputs);
           },
           "kind"_a, "outputs"_a, "inputs"_a)
      .def_prop_ro("kind", [](const Linear& linear) { return name_of(linear.kind()); })
      .def_prop_ro("outputs", &Linear::outputs)
      .def_prop_ro("inputs", &Linear::inputs)
      .def_prop_ro("nbytes", &Linear::bytes)
      .def("pack", &pack, "first"_a, "rows"_a, "format"_a, "data"_a)
      .def("unpack", &unpack);

  nb::class_<Program> program(module, "Program");
  program
      .def(nb::new_(&make_program), "step_tokens"_a, "logit_rows"_a, "context"_a, "vocabulary"_a,
           "cache_blocks"_a, "cache_type"_a, "kernels"_a, "pool"_a)
      .def("add_buffer",
           [](Program& p, bool has_token_rows, std::size_t columns) {
             return p.add_buffer(has_token_rows ? Rows::tokens : Rows::logits, columns);
           })
      .def("add_cache_layer", &Program::add_cache_layer)
      .def("finish", &Program::finish)
      .def("run", &run, "tokens"_a, "starts"_a, "lengths"_a, "block_tables"_a, "logit_rows"_a,
           "inject_rows"_a = nb::none(), "inject_values"_a = nb::none())
      .def("view", &view)
      .def("sample", &sample, "buffer"_a, "rows"_a, "temperature"_a, "top_k"_a, "top_p"_a,
           "min_p"_a, "repetition"_a, "presence"_a, "frequency"_a, "seeds"_a, "output_indices"_a,
           "history"_a, "history_offsets"_a, "num_generated"_a, "bias_tokens"_a, "bias_values"_a,
           "bias_offsets"_a, "num_logprobs"_a)
      .def("score", &score, "buffer"_a, "rows"_a, "targets"_a, "num_logprobs"_a)
      .def_prop_ro("kernels", [](const Program& p) { return p.kernels().name; })
      .def_prop_ro("block_bytes", [](const Program& p) { return p.cache().block_bytes(); });
  bind_ops(program);

  module.def("uniform", &uniform, "seed"_a, "index"_a);
  module.def("kernel_name", [](const std::string& name) { return select_kernels(name.c_str()).name; },
             "name"_a = "auto");
}
