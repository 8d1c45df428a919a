// What the files of the module yearling.kernels._native share.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/variant.h>
#include <nanobind/stl/vector.h>

#include <optional>
#include <span>
#include <variant>
#include <vector>

#include "ops/ops.hpp"

namespace yearling {

namespace nb = nanobind;

template <typename T, std::size_t Dims>
using Array = nb::ndarray<const T, nb::ndim<Dims>, nb::c_contig, nb::device::cpu>;
using Vector = Array<float, 1>;
using Ints = Array<std::int32_t, 1>;
using Longs = Array<std::uint64_t, 1>;
using Words = Array<std::uint32_t, 2>;

template <typename T>
std::span<const T> span_of(const Array<T, 1>& array) {
  return {array.data(), array.shape(0)};
}

inline std::vector<float> copy(const std::optional<Vector>& array) {
  return array ? std::vector<float>(array->data(), array->data() + array->shape(0))
               : std::vector<float>();
}
inline std::vector<float> copy(const Array<float, 2>& array) {
  return {array.data(), array.data() + array.size()};
}

// A NumPy array that owns its data.
template <typename T>
nb::object new_array(std::initializer_list<std::size_t> shape, T** data) {
  std::size_t size = 1;
  for (const std::size_t extent : shape) size *= extent;
  *data = new T[std::max<std::size_t>(size, 1)]();
  nb::capsule owner(*data, [](void* memory) noexcept { delete[] static_cast<T*>(memory); });
  return nb::cast(nb::ndarray<nb::numpy, T>(*data, shape, owner));
}

void bind_ops(nb::module_& module, nb::class_<Program>& program);
void bind_sampling(nb::class_<Program>& program);

}  // namespace yearling
