"""Every block format against the `gguf` package's own dequantisation, on random bytes."""

import gguf
import numpy as np
import pytest

from yearling.models.checkpoint.formats import BLOCK_FORMATS, StoredTensor, to_float32


def _random_tensor(name: str, rows: int, blocks_per_row: int) -> StoredTensor:
    block = BLOCK_FORMATS[name]
    random = np.random.default_rng(len(name) + rows)
    data = random.integers(0, 256, rows * blocks_per_row * block.num_bytes, dtype=np.uint8)
    return StoredTensor(name, (rows, blocks_per_row * block.values), data)


@pytest.mark.parametrize("name", BLOCK_FORMATS)
@pytest.mark.parametrize("rows", [1, 3, 700])
def test_to_float32_agrees_with_gguf(name: str, rows: int) -> None:
    tensor = _random_tensor(name, rows, blocks_per_row=50)
    with np.errstate(all="ignore"):
        expected = gguf.dequantize(tensor.data.reshape(rows, -1), gguf.GGMLQuantizationType[name])
    actual = to_float32(tensor)
    assert actual.dtype == np.float32
    # Random bytes hold infinite scales too; a NaN is a NaN whatever its sign.
    np.testing.assert_array_equal(actual, expected.reshape(actual.shape))


@pytest.mark.parametrize("name", BLOCK_FORMATS)
def test_block_sizes_agree_with_gguf(name: str) -> None:
    block = BLOCK_FORMATS[name]
    kind = gguf.GGMLQuantizationType[name]
    assert (block.values, block.num_bytes) == gguf.GGML_QUANT_SIZES[kind]


def test_to_float32_keeps_three_dimensions() -> None:
    flat = _random_tensor("Q4_0", 6, blocks_per_row=2)
    cube = StoredTensor("Q4_0", (2, 3, 64), flat.data)
    np.testing.assert_array_equal(to_float32(cube), to_float32(flat).reshape(2, 3, 64))


def test_to_float32_of_nothing_is_empty() -> None:
    empty = StoredTensor("Q6_K", (0, 256), np.empty(0, np.uint8))
    assert to_float32(empty).shape == (0, 256)


def test_size_refuses_rows_that_split_a_block() -> None:
    with pytest.raises(ValueError, match="rows of 33 values are not whole Q8_0 blocks of 32"):
        BLOCK_FORMATS["Q8_0"].size((4, 33))
