"""Rows nearly equal to an earlier one, by the share of word n-grams they have in common.

MinHash estimates that share (the Jaccard similarity) from a fixed number of hashes a row, and
locality-sensitive hashing finds the rows worth comparing, so that the time grows with the rows and
not with their pairs. A pair that hashing brings up is compared by all its hashes before a row goes.
With the default 128 hashes the estimate's standard error is 0.04 at the default threshold.
Memory: about 3 kB a row.

Source: Broder 1997, "On the resemblance and containment of documents"; hashing and index are
datasketch's.
"""

from typing import Any

from pydantic import Field

from yearling.core.config import Config
from yearling.core.errors import UnsupportedError
from yearling.data.content import texts_of, words_of
from yearling.data.examples import Example
from yearling.data.filters import Filter, FilterKind, Rejection, filters
from yearling.data.rows import RowId

__all__ = ["NearDuplicatesConfig", "build", "kind", "ngrams_of"]

# What the index overlooks is lost, and what it brings up for nothing costs one comparison.
_WEIGHTS = (0.1, 0.9)


class NearDuplicatesConfig(Config):
    """How alike rows must be, and how that is measured."""

    threshold: float = Field(
        default=0.8, gt=0.0, le=1.0, description="Least share of common n-grams that is too much."
    )
    ngram: int = Field(default=5, ge=1, description="Words of an n-gram.")
    num_hashes: int = Field(
        default=128, ge=16, le=1024, description="Hashes a row; more estimate better."
    )


def build(config: NearDuplicatesConfig) -> Filter:
    """Make the filter; the first of alike rows stays.

    Raises:
        UnsupportedError: datasketch is not installed.
    """
    try:
        from datasketch import MinHash, MinHashLSH  # type: ignore[import-untyped]
    except ModuleNotFoundError:
        raise UnsupportedError(
            "the filter near_duplicates needs datasketch: pip install yearling[train]"
        ) from None
    index = MinHashLSH(config.threshold, config.num_hashes, weights=_WEIGHTS)
    kept: dict[RowId, Any] = {}
    # Making the permutations anew for each row would cost more than hashing it.
    empty = MinHash(config.num_hashes, seed=1)

    def judge(row: RowId, example: Example) -> Rejection | None:
        sketch = empty.copy()
        sketch.update_batch(sorted(ngrams_of(example, config.ngram)))
        for other in sorted(index.query(sketch)):
            if (share := sketch.jaccard(kept[other])) >= config.threshold:
                return Rejection("it is nearly an earlier row", f"{share:.2f} alike to {other}")
        index.insert(row, sketch, check_duplication=False)
        kept[row] = sketch
        return None

    return judge


def ngrams_of(example: Example, size: int) -> set[bytes]:
    """Give the n-grams of an example's words; one of fewer words is an n-gram itself."""
    words = [word for text in texts_of(example) for word in words_of(text)]
    starts = range(max(len(words) - size + 1, 1))
    return {" ".join(words[start : start + size]).encode() for start in starts}


kind = filters.register(
    FilterKind(
        summary="takes out rows that are nearly an earlier one",
        config=NearDuplicatesConfig,
        build=build,
        source='Broder 1997, "On the resemblance and containment of documents"',
    ),
    __name__,
)
