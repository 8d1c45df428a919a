"""Slopes of ALiBi's linear biases, which every interpreter reads.

Source: Press et al. 2022, arXiv:2108.12409.
"""

import math

import numpy as np
from numpy.typing import NDArray

from yearling.models.spec import Alibi

__all__ = ["alibi_slopes"]


def alibi_slopes(alibi: Alibi, heads: int) -> NDArray[np.float32]:
    """Slope of each head, (heads,): a geometric series that ends at 2 to the power of -max_bias.

    For a number of heads that is no power of two, the series of the power below is followed by
    every other slope of the series of the power above.

    >>> alibi_slopes(Alibi(), 4).tolist()
    [0.25, 0.0625, 0.015625, 0.00390625]
    >>> alibi_slopes(Alibi(), 3).tolist()
    [0.0625, 0.00390625, 0.25]
    """
    below = 2 ** math.floor(math.log2(heads))
    series = _series(alibi.max_bias, below)
    if below < heads:
        series = np.concatenate([series, _series(alibi.max_bias, 2 * below)[::2][: heads - below]])
    return series.astype(np.float32)


def _series(max_bias: float, heads: int) -> NDArray[np.float64]:
    return np.asarray(2.0 ** (-max_bias * np.arange(1, heads + 1) / heads), np.float64)
