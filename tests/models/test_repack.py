"""Block formats rewritten for the native core keep their codes."""

import numpy as np
import pytest

from yearling.models.checkpoint.formats import BLOCK_FORMATS, StoredTensor, to_float32
from yearling.models.checkpoint.repack import to_core_format


def _random_blocks(name: str, rows: int, columns: int, seed: int = 3) -> StoredTensor:
    block = BLOCK_FORMATS[name]
    generator = np.random.default_rng(seed)
    count = rows * columns // block.values
    data = generator.integers(0, 256, (count, block.num_bytes), np.uint8)
    factors = generator.uniform(0.001, 0.1, (count, 2)).astype(np.float16).view(np.uint8)
    width = 4 if name == "Q4_K" else 2
    data[:, :width] = factors[:, :width]
    return StoredTensor(name, (rows, columns), data.reshape(-1))


def test_q5_0_becomes_q8_0_exactly():
    tensor = _random_blocks("Q5_0", 6, 96)
    rewritten = to_core_format(tensor)
    assert rewritten.format == "Q8_0"
    np.testing.assert_array_equal(to_float32(rewritten), to_float32(tensor))


def test_q4_k_becomes_q4_1_up_to_the_rounding_of_its_two_factors():
    tensor = _random_blocks("Q4_K", 4, 512)
    rewritten = to_core_format(tensor)
    assert rewritten.format == "Q4_1"
    before, after = to_float32(tensor), to_float32(rewritten)
    # Each factor is rounded to 11 bits; a code multiplies the scale by 15 at most.
    largest = np.abs(before).reshape(-1, 32).max(axis=1, keepdims=True)
    spread = np.ptp(before.reshape(-1, 32), axis=1, keepdims=True)
    bound = 2.0**-11 * (largest + spread) + 1e-7
    assert (np.abs(after - before).reshape(-1, 32) <= bound).all()


def test_q4_k_keeps_the_order_of_its_codes():
    tensor = _random_blocks("Q4_K", 2, 256)
    before, after = to_float32(tensor), to_float32(to_core_format(tensor))
    for old, new in zip(before.reshape(-1, 32), after.reshape(-1, 32), strict=True):
        np.testing.assert_array_equal(np.argsort(old, stable=True), np.argsort(new, stable=True))


def test_scales_beyond_float16_leave_the_tensor_as_it_is():
    tensor = _random_blocks("Q4_K", 1, 256)
    tensor.data[:2] = np.array([60_000], np.float16).view(np.uint8)
    tensor.data[4:8] = 63  # scales of the first groups
    assert to_core_format(tensor) is tensor


@pytest.mark.parametrize("name", ["F32", "F16", "Q8_0", "Q4_0", "Q4_1", "Q6_K"])
def test_other_formats_stay_as_they_are(name):
    tensor = _random_blocks(name, 2, 256)
    assert to_core_format(tensor) is tensor
