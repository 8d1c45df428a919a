"""Training or validation, decided by each row's own words.

Neither the order of the rows nor rows added later move a row to the other part, and rows that say
the same, but for case, spaces and punctuation, are always in the same one.
"""

import hashlib

from yearling.data.content import loose_hash
from yearling.data.examples import Example

__all__ = ["is_validation"]


def is_validation(example: Example, fraction: float, seed: int = 0) -> bool:
    """Say whether an example is for validation.

    Args:
        fraction: Share of the examples that are, 0 to 1. A larger one only adds to them.
        seed: Another one gives another split.
    """
    digest = hashlib.sha256(seed.to_bytes(8, "little") + loose_hash(example)).digest()
    return int.from_bytes(digest[:8], "little") < fraction * 2**64
