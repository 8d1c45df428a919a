"""A run's state as JSON and a table of tensors, and back: no pickle, bit for bit.

Tensors with more than one entry go into the table and leave their name behind; everything else is
JSON. What JSON cannot say is an object whose one key begins with `$`:

    {"$tensor": name, "dtype": "float32", "shape": [4, 8]}    in the table
    {"$value": base64, "dtype": "float32", "shape": []}       a tensor of one entry, or none
    {"$tuple": [...]}, {"$map": [[key, value], ...]}, {"$bytes": base64}
"""

import base64
import math
from collections.abc import Mapping, MutableMapping
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from yearling.core.errors import CheckpointError

__all__ = ["from_json", "to_json"]

_DTYPES = {
    str(value).removeprefix("torch."): value
    for value in vars(torch).values()
    if isinstance(value, torch.dtype)
}


def to_json(
    value: Any, tensors: MutableMapping[str, Tensor] | None, path: tuple[str, ...] = ()
) -> Any:
    """Turn a state into JSON, and put its tensors into a table.

    Args:
        value: Tensors, numbers, strings, bytes, None, and lists, tuples and dicts of them.
        tensors: The table; None writes every tensor into the JSON, which is for small ones.
        path: Where the value lies in the state.

    Raises:
        CheckpointError: a value is of another type; the message says where it lies.
    """
    match value:
        case None | bool() | int() | float() | str():
            return value
        case Tensor():
            return _tensor_to_json(value.detach(), tensors, path)
        case bytes():
            return {"$bytes": base64.b64encode(value).decode()}
        case Mapping():
            return _mapping_to_json(value, tensors, path)
        case list():
            return [to_json(item, tensors, (*path, str(n))) for n, item in enumerate(value)]
        case tuple():
            return {"$tuple": to_json(list(value), tensors, path)}
    raise CheckpointError(
        f"state {'.'.join(path) or '(whole)'} is a {type(value).__name__}, which a checkpoint does "
        "not keep.\n  Give tensors, numbers, strings, bytes, None, and lists, tuples and dicts."
    )


def from_json(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Turn JSON back into the state, with the tensors of the table.

    Raises:
        CheckpointError: it was not written by `to_json`.
    """
    if isinstance(value, list):
        return [from_json(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    try:
        match next(iter(value), ""):
            case "$tensor":
                return tensors[value["$tensor"]]
            case "$value":
                return _inline_tensor(value)
            case "$bytes":
                return base64.b64decode(value["$bytes"], validate=True)
            case "$tuple":
                return tuple(from_json(value["$tuple"], tensors))
            case "$map":
                pairs = value["$map"]
                return {from_json(k, tensors): from_json(v, tensors) for k, v in pairs}
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{value!r:.200} is not a value of a checkpoint.") from error
    return {key: from_json(item, tensors) for key, item in value.items()}


def _mapping_to_json(
    value: Mapping[Any, Any], tensors: MutableMapping[str, Tensor] | None, path: tuple[str, ...]
) -> Any:
    def inside(key: Any, item: Any) -> Any:
        return to_json(item, tensors, (*path, str(key)))

    if all(isinstance(key, str) and not key.startswith("$") for key in value):
        return {key: inside(key, item) for key, item in value.items()}
    return {"$map": [[to_json(key, {}, path), inside(key, item)] for key, item in value.items()]}


def _tensor_to_json(
    tensor: Tensor, tensors: MutableMapping[str, Tensor] | None, path: tuple[str, ...]
) -> Any:
    kind = {"dtype": str(tensor.dtype).removeprefix("torch."), "shape": list(tensor.shape)}
    if tensors is None or tensor.numel() <= 1:
        whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        raw = whole.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        return {"$value": base64.b64encode(raw).decode(), **kind}
    name = _free_name(".".join(path), tensors)
    tensors[name] = tensor
    return {"$tensor": name, **kind}


def _free_name(name: str, tensors: Mapping[str, Tensor]) -> str:
    """`a.b` in `c` and `a` in `b.c` have the same path."""
    number = 0
    free = name
    while free in tensors:
        number += 1
        free = f"{name}#{number}"
    return free


def _inline_tensor(value: Mapping[str, Any]) -> Tensor:
    dtype, shape = _DTYPES[value["dtype"]], value["shape"]
    raw = bytearray(base64.b64decode(value["$value"], validate=True))
    if not math.prod(shape):
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(raw, dtype=dtype).reshape(shape)
