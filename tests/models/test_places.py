"""Where weights lie in files: fused by blocks, groups or quarters, stacked, transposed, shifted."""

from collections.abc import Mapping

import numpy as np
import pytest
from numpy.typing import NDArray

from yearling.models.checkpoint.formats import StoredTensor, to_float32
from yearling.models.families import Family
from yearling.models.places import Place, gguf_places, hugging_face_places, take_weight
from yearling.models.spec import (
    Attention,
    Embedding,
    Experts,
    Gated,
    Head,
    LayerSpec,
    ModelSpec,
    Norm,
    Plain,
    Serial,
    StateSpace,
)
from yearling.models.weights import Role, Weight, WeightName, weights_of


def _spec(mixer: Attention | StateSpace, mlp: Plain | Gated | Experts | None = None) -> ModelSpec:
    layer = LayerSpec(mixer, mlp or Plain(6, has_bias=False), Serial(Norm(), Norm()))
    return ModelSpec("any", 5, 8, 16, Embedding(), (layer,), Norm(), Head())


def _names(spec: ModelSpec, **changes: WeightName) -> Mapping[Role, WeightName]:
    plain = {w.role: WeightName(f"x.{{layer}}.{w.role}", w.role) for w in weights_of(spec)}
    later = {role: name for role, name in plain.items() if role not in changes}
    return {**changes, **later}  # type: ignore[return-value]


def _take(
    places: Mapping[Weight, Place],
    role: Role,
    matrix: NDArray[np.float32],
    expert: int | None = None,
) -> NDArray[np.float32]:
    (weight,) = (w for w in places if (w.role, w.part, w.expert) == (role, "weight", expert))
    place = places[weight]
    assert place.shape == matrix.shape
    stored = StoredTensor("F32", matrix.shape, np.ascontiguousarray(matrix).view(np.uint8).ravel())
    taken = take_weight(stored, place, weight)
    assert taken.shape == weight.shape
    return to_float32(taken)


def _rows(count: int, columns: int = 8) -> NDArray[np.float32]:
    """A matrix whose rows say their number."""
    return np.repeat(np.arange(count, dtype=np.float32)[:, None], columns, 1)


def _first_column(values: NDArray[np.float32]) -> list[int]:
    return [int(value) for value in values[:, 0]]


def test_blocks_follow_the_order_of_the_table() -> None:
    spec = _spec(Attention(4, 2, 2))
    fused = WeightName("x.{layer}.qkv", "qkv")
    places = hugging_face_places(spec, _names(spec, value=fused, query=fused, key=fused))
    matrix = _rows(4 + 8 + 4)
    assert _first_column(_take(places, "value", matrix)) == [0, 1, 2, 3]
    assert _first_column(_take(places, "query", matrix)) == list(range(4, 12))
    assert _first_column(_take(places, "key", matrix)) == [12, 13, 14, 15]


def test_groups_hold_the_queries_of_a_key_head_then_its_key_and_value() -> None:
    spec = _spec(Attention(4, 2, 2))
    fused = WeightName("x.{layer}.qkv", "qkv", rows="groups")
    places = hugging_face_places(spec, _names(spec, query=fused, key=fused, value=fused))
    matrix = _rows(16)
    assert _first_column(_take(places, "query", matrix)) == [0, 1, 2, 3, 8, 9, 10, 11]
    assert _first_column(_take(places, "key", matrix)) == [4, 5, 12, 13]
    assert _first_column(_take(places, "value", matrix)) == [6, 7, 14, 15]


def test_quarters_hold_a_part_of_each_role() -> None:
    spec = _spec(Attention(8, 8, 1))
    fused = WeightName("x.{layer}.qkv", "qkv", rows="quarters")
    places = hugging_face_places(spec, _names(spec, query=fused, value=fused, key=fused))
    matrix = _rows(24)
    assert _first_column(_take(places, "query", matrix)) == [0, 1, 6, 7, 12, 13, 18, 19]
    assert _first_column(_take(places, "value", matrix)) == [2, 3, 8, 9, 14, 15, 20, 21]
    assert _first_column(_take(places, "key", matrix)) == [4, 5, 10, 11, 16, 17, 22, 23]


def test_gguf_has_blocks_whatever_hugging_face_has() -> None:
    spec = _spec(Attention(4, 2, 2))
    fused = WeightName("x.{layer}.qkv", "qkv", rows="groups")
    names = _names(spec, query=fused, key=fused, value=fused)
    places = gguf_places(spec, _family(names))
    assert _first_column(_take(places, "key", _rows(16))) == [8, 9, 10, 11]


def test_biases_are_fused_as_their_matrices_are() -> None:
    spec = _spec(Attention(4, 2, 2, has_qkv_bias=True))
    fused = WeightName("x.{layer}.qkv", "qkv", rows="groups")
    places = hugging_face_places(spec, _names(spec, query=fused, key=fused, value=fused))
    (bias,) = (w for w in places if (w.role, w.part) == ("key", "bias"))
    assert (places[bias].name, places[bias].shape) == ("x.0.qkv.bias", (16,))
    stored = StoredTensor("F32", (16,), np.arange(16, dtype=np.float32).view(np.uint8))
    assert to_float32(take_weight(stored, places[bias], bias)).tolist() == [4, 5, 12, 13]


def test_stacked_experts_come_apart() -> None:
    spec = _spec(Attention(4, 4, 2), Experts(3, 1, Gated(4)))
    stacked = WeightName("x.{layer}.gate", "gate")
    single = WeightName("x.{layer}.{expert}.up", "up")
    places = hugging_face_places(spec, _names(spec, gate=stacked, up=single))
    matrix = _rows(12).reshape(3, 4, 8)
    assert _first_column(_take(places, "gate", matrix, expert=1)) == [4, 5, 6, 7]
    names = {place.name for weight, place in places.items() if weight.role == "up"}
    assert names == {"x.0.0.up.weight", "x.0.1.up.weight", "x.0.2.up.weight"}
    assert _take(places, "up", _rows(4), expert=2).shape == (4, 8)


def test_transposed_matrices_are_turned_and_their_biases_are_not() -> None:
    spec = _spec(Attention(4, 4, 2, has_qkv_bias=True))
    fused = WeightName("x.{layer}.qkv", "qkv", is_transposed=True)
    places = hugging_face_places(spec, _names(spec, query=fused, key=fused, value=fused))
    matrix = np.arange(8 * 24, dtype=np.float32).reshape(8, 24)
    np.testing.assert_array_equal(_take(places, "key", matrix), matrix.T[8:16])
    (bias,) = (w for w in places if (w.role, w.part) == ("value", "bias"))
    assert places[bias].shape == (24,)
    assert not places[bias].is_transposed


def test_convolution_is_stored_with_a_channel_of_one() -> None:
    spec = _spec(StateSpace(16, 4, 3, rank=2))
    places = hugging_face_places(spec, _names(spec))
    matrix = np.arange(48, dtype=np.float32).reshape(16, 1, 3)
    np.testing.assert_array_equal(_take(places, "convolution", matrix), matrix[:, 0])


@pytest.mark.parametrize(
    ("value", "stored", "canonical"),
    [("same", 3.0, 3.0), ("plus_one", 3.0, 2.0), ("minus_exponential", -np.e, 1.0)],
)
def test_gguf_values_become_those_of_hugging_face(
    value: str, stored: float, canonical: float
) -> None:
    spec = _spec(StateSpace(16, 4, 3, rank=2))
    name = WeightName("x.{layer}.A", "blk.{layer}.A", has_suffix=False, gguf_value=value)  # type: ignore[arg-type]
    places = gguf_places(spec, _family(_names(spec, state_matrix=name)))
    taken = _take(places, "state_matrix", np.full((16, 4), stored, np.float32))
    np.testing.assert_allclose(taken, canonical, rtol=1e-6)
    assert {p.name for w, p in places.items() if w.role == "state_matrix"} == {"blk.0.A"}


def test_gguf_row_order_is_undone_within_fused_rows() -> None:
    spec = _spec(Attention(2, 2, 4))
    fused = WeightName("x.{layer}.qkv", "qkv")
    order = np.array([1, 0, 3, 2, 5, 4, 7, 6])
    family = Family(
        model_types=("any",),
        spec_from_config=lambda _: spec,
        names=lambda _: _names(spec, query=fused, key=fused, value=fused),
        gguf_row_order=lambda role, *_: order if role == "key" else None,
    )
    places = gguf_places(spec, family)
    assert _first_column(_take(places, "query", _rows(24))) == list(range(8))
    assert _first_column(_take(places, "key", _rows(24))) == [9, 8, 11, 10, 13, 12, 15, 14]


def test_quantised_rows_move_as_whole_blocks() -> None:
    spec = _spec(Attention(4, 2, 16))
    spec = ModelSpec("any", 5, 64, 16, Embedding(), spec.layers, Norm(), Head())
    fused = WeightName("x.{layer}.qkv", "qkv", rows="groups")
    places = hugging_face_places(spec, _names(spec, query=fused, key=fused, value=fused))
    (weight,) = (w for w in places if w.role == "value")
    data = np.random.default_rng(0).integers(0, 256, (128, 2 * 34), np.uint8)
    taken = take_weight(StoredTensor("Q8_0", (128, 64), data.ravel()), places[weight], weight)
    assert taken.format == "Q8_0"
    expected = np.concatenate([data[48:64], data[112:128]])
    assert taken.data.tobytes() == expected.tobytes()


def test_weight_without_a_name_is_an_error_of_the_family() -> None:
    spec = _spec(Attention(4, 2, 2))
    names = {role: name for role, name in _names(spec).items() if role != "output"}
    with pytest.raises(KeyError, match="output"):
        hugging_face_places(spec, names)


def _family(names: Mapping[Role, WeightName]) -> Family:
    return Family(
        model_types=("any",),
        spec_from_config=lambda _: _spec(Attention(1, 1, 8)),
        names=lambda _: names,
    )
