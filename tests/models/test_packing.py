"""Weights in the core's layouts hold the numbers of the file."""

from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest

from tests.models.test_repack import _random_blocks
from yearling.models.checkpoint.formats import StoredTensor, to_float32
from yearling.models.packing import Packer
from yearling.models.spec import (
    Attention,
    Embedding,
    Gated,
    Head,
    LayerSpec,
    ModelSpec,
    Norm,
    Serial,
)
from yearling.models.weights import Weight

_LAYER = LayerSpec(Attention(1, 1, 8), Gated(8), Serial(Norm(), Norm()))
_SPEC = ModelSpec("llama", 4, 512, 8, Embedding(), (_LAYER,), Norm(), Head(is_tied=True))


def pack(tensor: StoredTensor, weights: str, **options: object) -> np.ndarray:
    def weight(wanted: Weight) -> StoredTensor:
        return tensor

    checkpoint = SimpleNamespace(spec=_SPEC, weight=weight)
    with ThreadPoolExecutor(1) as pool:
        packer = Packer(checkpoint, weights, pool)
        (matrix,) = packer.matrices(None, ("embedding",), **options)()
    assert weights != "auto" or matrix.kind == {"Q4_K": "int4", "Q5_0": "int8"}[tensor.format]
    return matrix.unpack()


@pytest.mark.parametrize("name", ["Q4_K", "Q5_0", "Q6_K", "Q4_1"])
def test_float32_weights_are_those_of_the_file_to_the_bit(name: str) -> None:
    tensor = _random_blocks(name, 4, 512)
    np.testing.assert_array_equal(pack(tensor, "float32"), to_float32(tensor))


def test_codes_of_q5_0_are_kept_to_the_bit() -> None:
    tensor = _random_blocks("Q5_0", 4, 512)
    np.testing.assert_array_equal(pack(tensor, "auto"), to_float32(tensor))


def test_codes_of_q4_k_are_kept_with_rounded_factors() -> None:
    tensor = _random_blocks("Q4_K", 4, 512)
    difference = np.abs(pack(tensor, "auto") - to_float32(tensor))
    assert 0 < difference.max() < 2e-3 * np.abs(to_float32(tensor)).max()


def test_change_is_made_before_packing() -> None:
    tensor = _random_blocks("Q5_0", 4, 512)
    doubled = pack(tensor, "float32", change=lambda values: 2 * values)
    np.testing.assert_array_equal(doubled, 2 * to_float32(tensor))
