"""Spares the end of a decoder for tokens whose logits nobody wants.

Behind the last operation in which tokens meet, a token's row serves nothing but its own logits, and
of a prompt only the last token's are wanted. So rows are gathered there, and not before the head:
of L equal layers a prompt takes about the L-th part less.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from yearling.kernels import ops
from yearling.kernels.program import read_buffers

__all__ = ["gather_early"]

_BY_ROWS = (
    ops.Linear,
    ops.RMSNorm,
    ops.LayerNorm,
    ops.HeadNorm,
    ops.Activate,
    ops.Gate,
    ops.Clamp,
    ops.Scale,
    ops.Add,
)
_NAMES = ("input", "output", "buffer")


def gather_early(operations: Sequence[ops.Op]) -> tuple[ops.Op, ...]:
    """The same operations with the gathering of wanted rows as early as it can be.

    Args:
        operations: A program; one without gathering, or with another kind of operation in front
            of it, comes back as it is.
    """
    end = next((i for i, op in enumerate(operations) if isinstance(op, ops.Gather)), 0)
    begin = end
    while begin > 0 and isinstance(operations[begin - 1], _BY_ROWS):
        begin -= 1
    if begin == 0:
        return tuple(operations)
    gather = operations[end]
    assert isinstance(gather, ops.Gather), "found as one"
    renamed: dict[str, str] = {gather.input: gather.output}
    first: list[ops.Op] = [gather]
    behind: list[ops.Op] = []
    for op in operations[begin:end]:
        for name in _used_buffers(op):
            if name not in renamed:
                renamed[name] = f"{name}.wanted"
                if name in read_buffers(op):
                    first.append(ops.Gather(name, renamed[name]))
        behind.append(_with_names(op, renamed))
    return (*operations[:begin], *first, *behind, *operations[end + 1 :])


def _used_buffers(op: ops.Op) -> list[str]:
    return [getattr(op, field) for field in _NAMES if hasattr(op, field)]


def _with_names(op: ops.Op, names: dict[str, str]) -> ops.Op:
    change: dict[str, Any] = {
        field: names[getattr(op, field)] for field in _NAMES if hasattr(op, field)
    }
    return replace(op, **change)
