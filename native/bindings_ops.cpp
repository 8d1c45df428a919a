// The operations, as methods of a program that append them.
#include "bindings.hpp"

using namespace nanobind::literals;

namespace yearling {
namespace {

// The entry of a list of names; what a new enumerator needs is its name here.
template <typename Enum, std::size_t Count>
Enum named(const char* what, const char* const (&names)[Count], const std::string& name) {
  std::string known;
  for (std::size_t i = 0; i < Count; ++i) {
    if (name == names[i]) return static_cast<Enum>(i);
    known += (i ? ", " : "") + std::string(names[i]);
  }
  throw std::invalid_argument(std::string("no ") + what + " is named '" + name +
                              "'; known: " + known + ".");
}

Activation activation_named(const std::string& name) {
  return named<Activation>(
      "activation", {"silu", "gelu", "gelu_tanh", "relu", "relu_squared", "quick_gelu"}, name);
}
Channel channel_named(const std::string& name) {
  return named<Channel>("channel", {"token", "span", "block"}, name);
}
bool is_layer_norm(const std::string& kind) {
  return named<int>("norm", {"rms", "layer"}, kind) == 1;
}

// An array that several operations share.
struct Table {
  std::shared_ptr<const std::vector<float>> values;
  std::size_t columns;
  explicit Table(const Array<float, 2>& array)
      : values(std::make_shared<const std::vector<float>>(copy(array))), columns(array.shape(1)) {}
};

using Matrices = std::vector<std::shared_ptr<Linear>>;

std::vector<std::shared_ptr<const Linear>> shared(const Matrices& matrices) {
  return {matrices.begin(), matrices.end()};
}

void bind_rows(nb::class_<Program>& program) {
  program
      .def("embed",
           [](Program& p, std::shared_ptr<Linear> table, int output, float scale) {
             p.append(make_embed(p, std::move(table), output, scale));
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
      .def("head_norm",
           [](Program& p, int buffer, std::size_t column, std::size_t heads, std::size_t head_dim,
              const std::string& kind, const Vector& weight, const std::optional<Vector>& bias,
              float epsilon) {
             p.append(make_head_norm(p, buffer, column, heads, head_dim, is_layer_norm(kind),
                                     copy(weight), copy(bias), epsilon));
           },
           "buffer"_a, "column"_a, "heads"_a, "head_dim"_a, "kind"_a, "weight"_a, "bias"_a.none(),
           "epsilon"_a)
      .def("copy",
           [](Program& p, int input, int output, std::size_t column) {
             p.append(make_copy(p, input, output, column));
           })
      .def("scale",
           [](Program& p, int input, int output, float factor) {
             p.append(make_scale(p, input, output, factor));
           })
      .def("add",
           [](Program& p, int input, int output, float factor) {
             p.append(make_add(p, input, output, factor));
           })
      .def("gather",
           [](Program& p, int input, int output) { p.append(make_gather(p, input, output)); })
      .def("pool",
           [](Program& p, int input, int output, const std::string& kind, bool is_normalised) {
             const auto which = named<PoolKind>("pooling", {"mean", "first", "last"}, kind);
             p.append(make_pool(p, input, output, which, is_normalised));
           });
}

void bind_activations(nb::class_<Program>& program) {
  program
      .def("activate",
           [](Program& p, int buffer, const std::string& activation) {
             p.append(make_activate(p, buffer, activation_named(activation)));
           })
      .def("gate",
           [](Program& p, int input, int output, const std::string& activation) {
             p.append(make_gate(p, input, output, activation_named(activation)));
           })
      .def("clamp",
           [](Program& p, int buffer, std::size_t column, std::size_t width, float limit) {
             p.append(make_clamp(p, buffer, column, width, limit));
           })
      .def("soft_cap",
           [](Program& p, int buffer, float cap) { p.append(make_soft_cap(p, buffer, cap)); });
}

void bind_positions(nb::class_<Program>& program) {
  program
      .def("add_positions",
           [](Program& p, int output, const Table& table, std::size_t offset,
              const std::string& channel, bool accumulates) {
             p.append(make_add_positions(p, output, table.values, table.columns, offset,
                                         channel_named(channel), accumulates));
           })
      .def("angles",
           [](Program& p, int output, const Vector& frequencies, double factor,
              const std::string& channel, const std::string& stretch, double base,
              std::size_t trained, double stretch_factor, bool has_length_factor) {
             const auto kind =
                 named<StretchKind>("stretch", {"none", "dynamic_ntk", "stepped_ntk"}, stretch);
             const Stretch how{kind, base, stretch_factor, trained, has_length_factor};
             p.append(make_angles(p, output, copy(frequencies), factor, channel_named(channel),
                                  how));
           },
           "output"_a, "frequencies"_a, "factor"_a, "channel"_a, "stretch"_a = "none",
           "base"_a = 0.0, "trained"_a = 0, "stretch_factor"_a = 1.0,
           "has_length_factor"_a = false)
      .def("rotary",
           [](Program& p, int buffer, int angles, std::size_t column, std::size_t heads,
              std::size_t head_dim, const std::string& layout, std::size_t offset) {
             const bool is_interleaved =
                 named<int>("rotary layout", {"half", "interleaved"}, layout) == 1;
             p.append(make_rotary(p, buffer, angles, column, heads, head_dim, is_interleaved,
                                  offset));
           })
      .def("log_scale",
           [](Program& p, int buffer, std::size_t column, std::size_t width, std::size_t trained) {
             p.append(make_log_scale(p, buffer, column, width, trained));
           });
}

void bind_mixers(nb::class_<Program>& program) {
  program
      .def("write_kv",
           [](Program& p, int input, std::size_t layer, std::size_t key_column,
              std::size_t value_column, std::size_t kv_heads, std::size_t head_dim,
              std::size_t group) {
             p.append(make_write_kv(p, input, {layer, group, kv_heads, head_dim}, key_column,
                                    value_column));
           })
      .def("attention",
           [](Program& p, int input, int output, std::size_t layer, std::size_t heads,
              std::size_t kv_heads, std::size_t head_dim, float scale, std::size_t group,
              std::optional<std::size_t> window, bool sees_prefix, std::optional<float> soft_cap,
              const std::optional<Vector>& slopes) {
             require(!window || *window > 0, "attention: a window must be positive.");
             require(!soft_cap || *soft_cap > 0, "attention: a soft cap must be positive.");
             p.append(make_attention(p, input, output, {layer, group, kv_heads, head_dim},
                                     {heads, scale, window.value_or(0), sees_prefix,
                                      soft_cap.value_or(0.0f), copy(slopes)}));
           },
           "input"_a, "output"_a, "layer"_a, "heads"_a, "kv_heads"_a, "head_dim"_a, "scale"_a,
           "group"_a, "window"_a.none(), "sees_prefix"_a, "soft_cap"_a.none(), "slopes"_a.none())
      .def("convolution",
           [](Program& p, int input, int output, const Array<float, 2>& weight,
              const std::optional<Vector>& bias) {
             require(weight.shape(0) == p.buffer(output).columns,
                     "convolution: weight must be (columns of the output, taps).");
             p.append(make_convolution(p, input, output, weight.shape(1), copy(weight),
                                       copy(bias)));
           },
           "input"_a, "output"_a, "weight"_a, "bias"_a.none())
      .def("selective_scan",
           [](Program& p, int input, int time_step, int parameters, std::size_t input_column,
              std::size_t output_column, int gate, std::size_t gate_column, int output,
              const Array<float, 2>& matrix, const Vector& skip) {
             require(matrix.shape(0) == skip.shape(0),
                     "selective_scan: matrix and skip must have as many channels.");
             const ScanBuffers buffers{input, time_step, parameters, gate, output,
                                       input_column, output_column, gate_column};
             p.append(make_selective_scan(p, buffers, copy(matrix), copy(skip)));
           });
}

void bind_products(nb::class_<Program>& program) {
  program
      .def("linear",
           [](Program& p, int input, int output, std::shared_ptr<Linear> weights,
              const std::optional<Vector>& bias, std::size_t column, bool accumulates) {
             p.append(make_linear(p, input, output, std::move(weights), copy(bias), column,
                                  accumulates));
           },
           "input"_a, "output"_a, "weights"_a, "bias"_a.none(), "column"_a, "accumulates"_a)
      .def("experts",
           [](Program& p, int input, int router, int output, const Matrices& first,
              const Matrices& second, const std::string& activation, bool is_gated,
              std::size_t active, const std::string& router_kind, bool is_renormalised) {
             const bool is_softmax_first =
                 named<int>("router", {"topk_softmax", "softmax_topk"}, router_kind) == 1;
             p.append(make_experts(p, input, router, output,
                                   {shared(first), shared(second), activation_named(activation),
                                    is_gated, active, is_softmax_first, is_renormalised}));
           });
}

}  // namespace

void bind_ops(nb::module_& module, nb::class_<Program>& program) {
  nb::class_<Table>(module, "Table").def(nb::init<const Array<float, 2>&>(), "values"_a);
  bind_rows(program);
  bind_activations(program);
  bind_positions(program);
  bind_mixers(program);
  bind_products(program);
}

}  // namespace yearling
