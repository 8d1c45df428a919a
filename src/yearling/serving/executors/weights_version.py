"""A name for weights that changes whenever they do."""

import hashlib
from pathlib import Path

__all__ = ["weights_version"]


def weights_version(path: Path, weights: str) -> str:
    """Name the weights by what their files say of themselves: path, size, time of change.

    Args:
        path: Model file or folder.
        weights: Number format they were loaded in.
    """
    stat = path.stat()
    text = f"{path.resolve()}\0{stat.st_size}\0{stat.st_mtime_ns}\0{weights}"
    return hashlib.sha256(text.encode()).hexdigest()
