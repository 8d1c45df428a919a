"""Encoders: as near as ggml's own, and without loss for numbers that a block decoded to."""

import gguf
import numpy as np
import pytest
from numpy.typing import NDArray

from yearling.models.checkpoint.encode import ENCODED_FORMATS, from_float32
from yearling.models.checkpoint.formats import BLOCK_FORMATS, StoredTensor, to_float32

QUANTISED = tuple(name for name in ENCODED_FORMATS if BLOCK_FORMATS[name].values > 1)
GGUF_QUANTISES = ("F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1")
# Mean squared errors of llama.cpp's own quantiser for `_weights()`, from `ggml_quantize_chunk`.
LLAMA_CPP_ERRORS = {"Q4_K": 8.5120e-05, "Q6_K": 5.1797e-06}


def _weights(rows: int = 400, columns: int = 1024) -> NDArray[np.float32]:
    """Bell-shaped rows of very different sizes, as weights are."""
    random = np.random.default_rng(0)
    sizes = np.exp(random.standard_normal((rows, 1)))
    return (random.standard_normal((rows, columns)) * 0.05 * sizes).astype(np.float32)


def _random_blocks(name: str, seed: int, count: int = 300) -> StoredTensor:
    """Blocks with codes of any kind and scales that are finite and not 0."""
    random = np.random.default_rng(seed)
    block = BLOCK_FORMATS[name]
    data = random.integers(0, 256, (count, block.num_bytes), np.uint8)
    halves = {"Q4_1": (0, 2), "Q5_1": (0, 2), "Q4_K": (0, 2), "Q6_K": (208,)}.get(name, (0,))
    for place in halves:
        scale = np.exp(random.standard_normal(count) - 5).astype(np.float16)
        data[:, place : place + 2] = scale.view(np.uint8).reshape(-1, 2)
    if name == "Q4_1":  # minima of weights lie below 0
        data[:, 3] |= 128
    if name == "Q4_K":  # a minimum is about half of 15 steps; a sum of far sizes is rounded
        minimum = data[:, :2].copy().view(np.float16) * np.float16(7)
        data[:, 2:4] = minimum.view(np.uint8)
    return StoredTensor(name, (count, block.values), data.reshape(-1))


def _error(values: NDArray[np.float32], name: str) -> float:
    return float(np.mean((to_float32(from_float32(values, name)) - values) ** 2))


@pytest.mark.parametrize("name", GGUF_QUANTISES)
def test_encoding_is_that_of_gguf(name: str) -> None:
    values = _weights(64)
    expected = gguf.quants.quantize(values, gguf.GGMLQuantizationType[name])
    np.testing.assert_array_equal(from_float32(values, name).data, expected.view(np.uint8).ravel())


@pytest.mark.parametrize("name", LLAMA_CPP_ERRORS)
def test_error_is_near_that_of_llama_cpp(name: str) -> None:
    assert _error(_weights(), name) <= 1.05 * LLAMA_CPP_ERRORS[name]


@pytest.mark.parametrize("name", ["Q4_K", "Q6_K"])
def test_search_beats_the_plain_range(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from yearling.models.checkpoint import rounding

    values = _weights(32)
    searched = _error(values, name)
    monkeypatch.setattr(rounding, "_Q4_K_STEPS", rounding._Q4_K_STEPS[10:11])
    monkeypatch.setattr(rounding, "_Q6_K_STEPS", rounding._Q6_K_STEPS[9:10])
    assert searched < 0.99 * _error(values, name)


@pytest.mark.parametrize("name", QUANTISED)
def test_encoding_twice_is_encoding_once(name: str) -> None:
    once = to_float32(from_float32(_weights(100), name))
    np.testing.assert_array_equal(to_float32(from_float32(once, name)), once)


@pytest.mark.parametrize("name", ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K"])
def test_bytes_of_the_quantiser_come_back(name: str) -> None:
    encoded = from_float32(_weights(100), name)
    again = from_float32(to_float32(encoded), name)
    np.testing.assert_array_equal(again.data, encoded.data)


@pytest.mark.parametrize("name", QUANTISED)
def test_values_of_any_block_come_back(name: str) -> None:
    values = to_float32(_random_blocks(name, seed=5))
    np.testing.assert_array_equal(to_float32(from_float32(values, name)), values)


@pytest.mark.parametrize("name", QUANTISED)
def test_rounding_alone_would_lose_them(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from yearling.models.checkpoint import encode

    values = to_float32(_random_blocks(name, seed=5))
    plain = encode._Encoder(encode._ENCODERS[name].encode)
    monkeypatch.setattr(encode, "_ENCODERS", {name: plain})
    assert not np.array_equal(to_float32(from_float32(values, name)), values)


@pytest.mark.parametrize("name", sorted(set(QUANTISED) - {"Q4_K"}))  # too many ways for Q4_K
def test_codes_that_do_not_reach_the_ends_come_back(name: str) -> None:
    # A narrow band of codes: the extreme value alone would give another scale.
    stored = _random_blocks(name, seed=6)
    data = stored.data.copy().reshape(-1, BLOCK_FORMATS[name].num_bytes)
    first, last = {"Q6_K": (0, 128)}.get(name, (data.shape[1] - 16, None))
    data[:, first:last] = data[:, first:last] & 0x33 | 0x22
    values = to_float32(StoredTensor(name, stored.shape, data.reshape(-1)))
    np.testing.assert_array_equal(to_float32(from_float32(values, name)), values)


@pytest.mark.parametrize("name", ENCODED_FORMATS)
@pytest.mark.parametrize("value", [0.0, -0.5, 0.75])
def test_constant_rows_come_back(name: str, value: float) -> None:
    values = np.full((2, 256), value, np.float32)
    decoded = to_float32(from_float32(values, name))
    np.testing.assert_allclose(decoded, values, rtol=0.005)  # Q8_0 has 1/127 as a float16


@pytest.mark.parametrize("name", ENCODED_FORMATS)
def test_nothing_encodes_to_nothing(name: str) -> None:
    stored = from_float32(np.empty((0, 256), np.float32), name)
    assert (stored.shape, stored.data.size) == ((0, 256), 0)


@pytest.mark.parametrize("name", ENCODED_FORMATS)
def test_size_is_that_of_the_format(name: str) -> None:
    stored = from_float32(np.ones((3, 2, 256), np.float32), name)
    assert stored.data.size == BLOCK_FORMATS[name].size((3, 2, 256))
    assert to_float32(stored).shape == (3, 2, 256)


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_infinite_values_are_refused(value: float) -> None:
    values = np.zeros((1, 32), np.float32)
    values[0, 3] = value
    with pytest.raises(ValueError, match="infinite or not a number, which Q8_0 does not hold"):
        from_float32(values, "Q8_0")


@pytest.mark.parametrize("name", ["F16", "Q4_1"])
def test_values_beyond_the_range_are_refused(name: str) -> None:
    values = np.full((1, 32), 1e6, np.float32)
    with pytest.raises(ValueError, match=f"1e\\+06 is beyond the range of {name}"):
        from_float32(values, name)


def test_unknown_format_is_refused() -> None:
    with pytest.raises(ValueError, match="format Q2_K is not written"):
        from_float32(np.zeros((1, 256), np.float32), "Q2_K")


def test_rows_that_split_a_block_are_refused() -> None:
    with pytest.raises(ValueError, match="not whole Q4_K blocks of 256"):
        from_float32(np.zeros((1, 128), np.float32), "Q4_K")
