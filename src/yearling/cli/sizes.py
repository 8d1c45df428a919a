"""Sizes as people read them."""

__all__ = ["size_text"]


def size_text(num_bytes: int) -> str:
    """Write bytes in decimal units.

    >>> size_text(98_362_432), size_text(43_114_856_448), size_text(23_040)
    ('98.4 MB', '43.1 GB', '23.0 kB')
    """
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if num_bytes >= factor:
            return f"{num_bytes / factor:.1f} {unit}"
    return f"{num_bytes / 1e3:.1f} kB"
