// The module yearling.kernels._native: thin, typed, and without the GIL while it computes.
#include "bindings.hpp"

#include "sampling.hpp"

using namespace nanobind::literals;

namespace yearling {
namespace {

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
  if (name == "bfloat16") return CacheType::bfloat16;
  throw std::invalid_argument("no cache type is named '" + name + "'; known: float32, float16, "
                              "bfloat16.");
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

// A step's sequences, from their first positions and lengths in the order of its tokens.
std::vector<Sequence> sequences_of(const Ints& starts, const Ints& lengths,
                                   const std::optional<Ints>& prefixes,
                                   const std::optional<Ints>& slots,
                                   const std::optional<Ints>& adapters) {
  const std::size_t count = starts.shape(0);
  require(lengths.shape(0) == count && (!prefixes || prefixes->shape(0) == count) &&
              (!slots || slots->shape(0) == count) && (!adapters || adapters->shape(0) == count),
          "starts, lengths, prefixes, slots and adapters must have one entry per sequence.");
  std::vector<Sequence> sequences;
  sequences.reserve(count);
  std::size_t first = 0;
  for (std::size_t s = 0; s < count; ++s) {
    const std::int32_t prefix = prefixes ? prefixes->data()[s] : 0;
    const std::int32_t slot = slots ? slots->data()[s] : 0;
    require(starts.data()[s] >= 0 && lengths.data()[s] > 0,
            "starts must not be negative and lengths must be positive.");
    require(prefix >= 0 && slot >= 0, "prefixes and slots must not be negative.");
    const auto length = static_cast<std::size_t>(lengths.data()[s]);
    sequences.push_back({first, length, static_cast<std::size_t>(starts.data()[s]),
                         static_cast<std::size_t>(prefix), static_cast<std::size_t>(slot),
                         adapters ? adapters->data()[s] : -1});
    first += length;
  }
  return sequences;
}

using Tables = std::vector<Array<std::int32_t, 2>>;

std::vector<GroupTables> groups_of(const Tables& tables, const std::vector<Ints>& first_blocks,
                                   std::size_t sequences) {
  require(tables.size() == first_blocks.size(), "every block table needs its first_blocks.");
  std::vector<GroupTables> groups;
  groups.reserve(tables.size());
  for (std::size_t group = 0; group < tables.size(); ++group) {
    require(tables[group].shape(0) == sequences && first_blocks[group].shape(0) == sequences,
            "block tables and first_blocks must have one row per sequence.");
    for (const std::int32_t first : span_of(first_blocks[group])) {
      require(first >= 0, "first_blocks must not be negative.");
    }
    groups.push_back({tables[group].data(), first_blocks[group].data(), tables[group].shape(1)});
  }
  return groups;
}

void run(Program& program, const Ints& tokens, const Ints& starts, const Ints& lengths,
         const Tables& tables, const std::vector<Ints>& first_blocks, const Ints& logit_rows,
         const std::optional<Ints>& prefixes, const std::optional<Ints>& slots,
         const std::optional<Ints>& inject_rows,
         const std::optional<Array<float, 2>>& inject_values,
         const std::optional<Ints>& adapters) {
  const auto sequences = sequences_of(starts, lengths, prefixes, slots, adapters);
  const auto groups = groups_of(tables, first_blocks, sequences.size());
  require(slots || !program.keeps_states(), "this program keeps states: slots must be given.");
  Injection injection{{}, nullptr};
  if (inject_rows) {
    require(inject_values && inject_values->shape(0) == inject_rows->shape(0),
            "inject_values needs one row per entry of inject_rows.");
    require(inject_values->shape(1) == program.buffer(0).columns,
            "inject_values must be as wide as the residual stream.");
    injection = {span_of(*inject_rows), inject_values->data()};
  }
  const Step step{span_of(tokens), sequences, groups, span_of(logit_rows), injection};
  const nb::gil_scoped_release release;
  program.run(step);
}

// By number of a linear operation: its first matrix, as float32 or as the bits of float16, and
// (column, first row, second) of each part.
using Part = std::tuple<std::size_t, std::size_t, std::shared_ptr<Linear>>;
using First = std::variant<Array<float, 2>, Array<std::uint16_t, 2>>;
using Updates = std::vector<std::tuple<std::size_t, First, std::vector<Part>>>;

void set_adapter(Program& program, std::size_t number, const Updates& updates) {
  Adapter adapter(updates.empty() ? 0 : program.linears());
  for (const auto& [linear, first, parts] : updates) {
    require(linear < adapter.size(), "no linear operation has that number.");
    LowRank& update = adapter[linear];
    update.type = first.index() == 0 ? CacheType::float32 : CacheType::float16;
    std::visit(
        [&](const auto& matrix) {
          update.ranks = matrix.shape(0);
          update.inputs = matrix.shape(1);
          const auto* bytes = reinterpret_cast<const std::byte*>(matrix.data());
          update.first.assign(bytes, bytes + matrix.size() * sizeof *matrix.data());
        },
        first);
    for (const auto& [column, first_row, second] : parts) {
      update.parts.push_back({column, first_row, second});
    }
  }
  program.set_adapter(number, std::move(adapter));
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

Program* make_program(std::size_t step_tokens, std::size_t logit_rows, std::size_t context,
                      std::size_t vocabulary, const std::vector<std::size_t>& cache_blocks,
                      std::size_t state_slots, const std::string& cache_type,
                      const std::string& kernels, std::shared_ptr<Pool> pool) {
  require(step_tokens > 0 && logit_rows > 0 && context > 0 && vocabulary > 0,
          "a program's limits must be positive.");
  for (const std::size_t blocks : cache_blocks) {
    require(blocks > 0, "every cache group needs at least one block.");
  }
  const Limits limits{step_tokens, logit_rows, context, vocabulary, state_slots, cache_blocks};
  return new Program(limits, cache_type_named(cache_type), select_kernels(kernels.c_str()),
                     std::move(pool));
}

std::vector<std::size_t> block_bytes(const Program& program) {
  std::vector<std::size_t> bytes;
  for (std::size_t group = 0; group < program.cache().groups(); ++group) {
    bytes.push_back(program.cache().block_bytes(group));
  }
  return bytes;
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

  nb::class_<WeightMemory>(module, "WeightMemory").def(nb::init<std::size_t>(), "bytes"_a);
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
           "cache_blocks"_a, "state_slots"_a, "cache_type"_a, "kernels"_a, "pool"_a)
      .def("add_buffer",
           [](Program& p, bool has_token_rows, std::size_t columns) {
             return p.add_buffer(has_token_rows ? Rows::tokens : Rows::logits, columns);
           })
      .def("add_cache_layer", &Program::add_cache_layer)
      .def("finish", &Program::finish)
      .def("run", &run, "tokens"_a, "starts"_a, "lengths"_a, "tables"_a, "first_blocks"_a,
           "logit_rows"_a, "prefixes"_a = nb::none(), "slots"_a = nb::none(),
           "inject_rows"_a = nb::none(), "inject_values"_a = nb::none(),
           "adapters"_a = nb::none())
      .def("set_adapter", &set_adapter, "number"_a, "updates"_a)
      .def("view", &view)
      .def_prop_ro("kernels", [](const Program& p) { return p.kernels().name; })
      .def_prop_ro("block_bytes", &block_bytes)
      .def_prop_ro("slot_bytes", &Program::slot_bytes);
  bind_ops(module, program);
  bind_sampling(program);

  module.def("uniform", &uniform, "seed"_a, "index"_a);
  module.def("kernel_name", [](const std::string& name) { return select_kernels(name.c_str()).name; },
             "name"_a = "auto");
  module.def(
      "multiplies_bfloats",
      [](const std::string& name) { return select_kernels(name.c_str()).multiplies_bfloats; },
      "name"_a = "auto");
}
