"""Writes one checkpoint as training does, without torch: what system-call faults are injected into.

Ends with 0, or with 3 when the fault came back as the documented error.
"""

import sys
from pathlib import Path

from yearling.core.errors import CheckpointError
from yearling.training import durable

CONTENT = {"state.json": b"{}", "tensors/a.bin": b"ab" * 900, "tensors/b.bin": b""}
REFUSED = 3


def fill(part: Path, mark: bytes) -> None:
    """Write a checkpoint's files, each with the mark of the checkpoint it belongs to."""
    (part / "tensors").mkdir()
    for name, content in CONTENT.items():
        durable.write_file(part / name, mark + content)


def main(root: Path) -> int:
    """Clear up, write step 2, point `best` at it and let go of step 1."""
    try:
        durable.recover(root)
        folder = durable.write_folder(root, 2, lambda part: fill(part, b"new"))
        durable.point(root, "best", folder)
        durable.retain(root, keep=1)
    except CheckpointError as error:
        print(error, file=sys.stderr)
        return REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
