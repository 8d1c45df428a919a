"""Compressed moments against the paper's definitions, written out in NumPy."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from yearling.training.moments import (
    BlockCodes,
    Exact,
    Factored,
    MomentStore,
    RankOneCodes,
    dynamic_exponent_map,
    linear_map,
    pack_codes,
    unpack_codes,
)

DYNAMIC = [
    -0.8875, -0.6625, -0.4375, -0.2125, -0.0775, -0.0325, -0.0055, 0.0,
    0.0055, 0.0325, 0.0775, 0.2125, 0.4375, 0.6625, 0.8875, 1.0,
]  # fmt: skip
SHAPES = [(1,), (127,), (128,), (300,), (3, 5), (64, 96), (129, 1), (2, 3, 4), (8, 2, 3, 3)]


def drawn(shape: tuple[int, ...], *, is_signed: bool) -> torch.Tensor:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(len(shape)))
    return values * 1e-3 if is_signed else values.square() * 1e-6


def nearest(value: float, values: NDArray[np.float32]) -> float:
    return float(values[int(np.argmin(np.abs(values - np.float32(value))))])


def by_blocks(x: NDArray[np.float32], values: NDArray[np.float32]) -> NDArray[np.float32]:
    flat, out = x.reshape(-1), np.zeros(x.size, np.float32)
    for start in range(0, x.size, 128):
        block = flat[start : start + 128]
        scale = np.abs(block).max()
        for place, value in enumerate(block, start=start):
            out[place] = nearest(value / scale, values) * scale if scale else 0.0
    return out.reshape(x.shape)


def by_axes(x: NDArray[np.float32], values: NDArray[np.float32]) -> NDArray[np.float32]:
    out = np.zeros_like(x)
    for place in np.ndindex(x.shape):
        scale = min(np.abs(np.take(x, place[axis], axis)).max() for axis in range(x.ndim))
        out[place] = nearest(x[place] / scale, values) * scale if scale else 0.0
    return out


def there_and_back(store: MomentStore, moment: torch.Tensor) -> torch.Tensor:
    return store.restore(store.compress(moment), moment.shape)


def test_dynamic_exponent_map_is_the_papers() -> None:
    np.testing.assert_allclose(dynamic_exponent_map().numpy(), DYNAMIC, rtol=1e-6)


def test_linear_map_has_no_zero_unless_asked() -> None:
    assert linear_map().tolist() == [k / 16 for k in range(1, 17)]
    assert linear_map(has_zero=True)[0] == 0.0
    assert linear_map(has_zero=True)[-1] == 1.0


@pytest.mark.parametrize("count", [0, 1, 2, 7, 128])
def test_codes_are_packed_two_to_a_byte_without_loss(count: int) -> None:
    codes = torch.arange(count, dtype=torch.uint8) % 16
    packed = pack_codes(codes)
    assert packed.dtype == torch.uint8
    assert len(packed) == (count + 1) // 2
    assert torch.equal(unpack_codes(packed, count), codes)


@pytest.mark.parametrize("shape", SHAPES)
def test_block_codes_equal_the_definition(shape: tuple[int, ...]) -> None:
    moment = drawn(shape, is_signed=True)
    expected = by_blocks(moment.numpy(), dynamic_exponent_map().numpy())
    restored = there_and_back(BlockCodes(dynamic_exponent_map()), moment)
    np.testing.assert_array_equal(restored.numpy(), expected)


@pytest.mark.parametrize("shape", SHAPES)
def test_rank_one_codes_equal_the_definition(shape: tuple[int, ...]) -> None:
    moment = drawn(shape, is_signed=False)
    definition = by_axes if len(shape) > 1 else by_blocks
    expected = definition(moment.numpy(), linear_map().numpy())
    restored = there_and_back(RankOneCodes(linear_map()), moment)
    np.testing.assert_array_equal(restored.numpy(), expected)


def test_a_map_without_zero_restores_nothing_to_zero_beside_something_large() -> None:
    moment = torch.full((8, 256), 1e-9)
    moment[torch.arange(256) % 8, torch.arange(256)] = 1.0  # in every row and column
    assert there_and_back(RankOneCodes(linear_map()), moment).min() > 0
    with_zero = there_and_back(RankOneCodes(linear_map(has_zero=True)), moment)
    assert (with_zero == 0).any()


def test_an_outlier_spoils_less_by_axes_than_by_blocks() -> None:
    moment = drawn((64, 128), is_signed=False) + 1e-7
    moment[:, 5] *= 1e4  # a column of outliers stands in every block
    errors = [
        (there_and_back(store, moment) - moment).norm() / moment.norm()
        for store in (RankOneCodes(linear_map()), BlockCodes(linear_map()))
    ]
    without = moment[:, torch.arange(128) != 5]
    kept = there_and_back(RankOneCodes(linear_map()), moment)[:, torch.arange(128) != 5]
    lost = there_and_back(BlockCodes(linear_map()), moment)[:, torch.arange(128) != 5]
    assert errors[0] < errors[1]
    assert (kept - without).norm() < (lost - without).norm() / 100


@pytest.mark.parametrize("shape", SHAPES)
def test_moving_factors_is_factoring_the_moving_average(shape: tuple[int, ...]) -> None:
    store = Factored(vectors=Exact())
    old, new = drawn(shape, is_signed=False), drawn(shape, is_signed=False).flip(0)
    moved = there_and_back(store, 0.9 * there_and_back(store, old) + 0.1 * new)
    direct = there_and_back(store, 0.9 * old + 0.1 * new)
    torch.testing.assert_close(moved, direct, rtol=1e-5, atol=0)


def test_factors_restore_a_matrix_of_rank_one() -> None:
    moment = torch.rand(6, 1).add(0.1) * torch.rand(1, 9).add(0.1)
    torch.testing.assert_close(there_and_back(Factored(), moment), moment)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    "store",
    [BlockCodes(linear_map()), RankOneCodes(linear_map()), Factored(), Exact()],
    ids=lambda store: type(store).__name__,
)
def test_store_takes_the_bytes_it_says_and_keeps_zeros(
    store: MomentStore, shape: tuple[int, ...]
) -> None:
    kept = store.compress(torch.zeros(shape))
    assert sum(tensor.nbytes for tensor in kept.values()) == store.num_bytes(shape)
    assert torch.equal(store.restore(kept, shape), torch.zeros(shape))


def test_codes_are_those_of_a_search_over_midpoints() -> None:
    for values in (dynamic_exponent_map(), linear_map(), linear_map(has_zero=True)):
        between = (values[1:] + values[:-1]) / 2
        moment = torch.cat([torch.linspace(-1, 1, 9_999), between, between.nextafter(values[1:])])
        store = BlockCodes(values, block=len(moment))
        expected = torch.bucketize(moment, between).to(torch.uint8)
        codes = unpack_codes(store.compress(moment)["codes"], len(moment))
        assert torch.equal(codes, expected)
