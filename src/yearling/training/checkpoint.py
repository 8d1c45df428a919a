"""A run's state on disk: weights, optimizer, random numbers, place in the data, metrics.

Tensors are written by `torch.distributed.checkpoint` as safetensors, every rank its own shards,
and everything else as JSON; nothing is pickled, so nothing is run when a checkpoint is read. A
checkpoint that N ranks wrote is read by M: a tensor comes back sharded like the one it is for, and
whole where it is for none. `durable` makes it appear at once or not at all.

Every function that writes must be called by all ranks of a run, and returns the same in each.
"""

import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.hf_storage import (
    HuggingFaceStorageReader,
    HuggingFaceStorageWriter,
)
from torch.distributed.checkpoint.state_dict_loader import load as read_tensors
from torch.distributed.checkpoint.state_dict_saver import save as write_tensors
from torch.distributed.tensor import DTensor

from yearling.core.errors import CheckpointError
from yearling.training import durable
from yearling.training.state_json import from_json, to_json

__all__ = ["find_last", "load", "point_best", "recover", "save"]

_STATE, _TENSORS, _OWN = "state.json", "tensors", "random"
_BUCKET_BYTES = 256 << 20  # a file is put together in memory before it is written
_Value = TypeVar("_Value")


def save(
    folder: Path,
    step: int,
    state: Mapping[str, Any],
    *,
    keep: int | None = None,
) -> Path:
    """Write a checkpoint and point `last` at it; when it fails, every earlier one is as it was.

    Args:
        folder: Of all checkpoints of the run.
        step: Steps done.
        state: Tensors, numbers, strings, None, and lists, tuples and dicts of them; the same in
            every rank, but that sharded tensors (`DTensor`) have their shard, and that `random`
            is a dict with an entry of each rank's own. All entries are kept.
        keep: Checkpoints to keep besides the best; None keeps all.

    Returns:
        Its folder.

    Raises:
        CheckpointError: the disk is full or fails, or a value cannot be kept.
    """
    tensors: dict[str, Tensor] = {}
    shared = {name: value for name, value in state.items() if name != _OWN}
    document = {"step": step, "state": to_json(shared, tensors)}
    if _OWN in state:
        document["state"][_OWN] = _gather(state[_OWN])
    part = _from_first(lambda: durable.begin_part(folder, step))
    try:
        with _refusals_told(part):
            _write_tensors(part, tensors)
        return _from_first(lambda: _commit(part, document, keep))
    except BaseException:
        if _rank() == 0:
            durable.discard_part(part)
        raise


def load(path: Path, like: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Read a checkpoint's state into new tensors; nothing that `like` holds is changed.

    Args:
        path: Folder of the checkpoint.
        like: A state of the same run as it is now: where it has a sharded tensor, the one that is
            read is sharded in the same way, and so is what belongs to one by name and shape, as
            an optimizer's averages do. Everything else is whole, on the processor.

    Raises:
        CheckpointError: it is missing, damaged, or of tensors of another shape.
    """
    document = _read(path)
    tensors: dict[str, Tensor] = {}
    _make_tensors(document["state"], like, _Layout(like, tensors), ())
    with _refusals_told(path):
        _read_tensors(path, tensors)
    state: dict[str, Any] = from_json(document["state"], tensors)
    return state


def find_last(folder: Path, *, allows_previous: bool = True) -> Path | None:
    """Find the newest whole checkpoint of a run; None when none was ever written.

    Args:
        folder: Of all checkpoints of the run.
        allows_previous: Whether a damaged one is passed over for the one before it.

    Raises:
        CheckpointError: there are checkpoints, but the newest or all of them are damaged.
    """
    return _from_first(lambda: durable.find_last(folder, allows_previous=allows_previous))


def recover(folder: Path) -> Path | None:
    """Clear away what a crash left, as a run that goes on does first; find where to go on.

    Raises:
        CheckpointError: there are checkpoints, and all are damaged; or the disk fails.
    """
    return _from_first(lambda: durable.recover(folder))


def point_best(folder: Path, checkpoint: Path) -> None:
    """Let `best` name a checkpoint, which is then kept.

    Raises:
        CheckpointError: the disk fails; `best` is as it was.
    """
    _from_first(lambda: durable.point(folder, "best", checkpoint))


def _commit(part: Path, document: Mapping[str, Any], keep: int | None) -> Path:
    durable.write_file(part / _STATE, json.dumps(document).encode())
    folder = durable.commit_part(part)
    if keep is not None:
        durable.retain(folder.parent, keep)
    return folder


def _write_tensors(part: Path, tensors: dict[str, Tensor]) -> None:
    place = part / _TENSORS
    if not tensors:
        return
    buckets: dict[str, int] = {}
    filled, bucket = 0, 1
    for name, tensor in tensors.items():
        size = tensor.numel() * tensor.element_size()
        filled += size
        if filled > _BUCKET_BYTES and buckets:
            filled, bucket = size, bucket + 1
        buckets[name] = bucket
    is_alone = not _has_group()
    writer = HuggingFaceStorageWriter(str(place), buckets, save_distributed=True)
    write_tensors(
        _unshared(tensors),
        storage_writer=writer,
        planner=DefaultSavePlanner(flatten_state_dict=False),
        no_dist=is_alone,
    )


def _read_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    if tensors:
        # Ranks read what they need on their own, so that none waits for one that has failed.
        read_tensors(
            tensors,
            storage_reader=HuggingFaceStorageReader(str(path / _TENSORS)),
            planner=DefaultLoadPlanner(flatten_state_dict=False),
            no_dist=True,
        )


def _unshared(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Copy what is not in one piece or shares memory with another, which safetensors refuses."""
    seen: set[int] = set()
    result: dict[str, Any] = {}
    for name, tensor in tensors.items():
        local = tensor.to_local() if isinstance(tensor, DTensor) else tensor
        place = local.untyped_storage().data_ptr()
        is_shared = place in seen and local.numel() > 0
        packed = tensor.contiguous()
        result[name] = packed.clone() if is_shared and packed is tensor else packed
        seen.add(place)
    return result


def _read(path: Path) -> dict[str, Any]:
    """Check the whole checkpoint, in one rank for all, and give its JSON."""

    def check() -> dict[str, Any]:
        durable.read_folder(path)
        try:
            document = json.loads((path / _STATE).read_bytes())
            is_ours = document.keys() == {"step", "state"}
        except (OSError, ValueError, AttributeError, RecursionError) as error:
            raise CheckpointError(f"{path / _STATE} cannot be read: {error}.") from error
        if not is_ours:
            raise CheckpointError(f"{path / _STATE} is not a run's state.")
        found: dict[str, Any] = document
        return found

    return _from_first(check)


class _Layout:
    """The tensors of a checkpoint as this run wants them, empty.

    Attributes:
        tensors: By the name that the JSON has for them.
    """

    def __init__(self, like: Any, tensors: dict[str, Tensor]) -> None:
        self.tensors = tensors
        self._sharded: dict[str, DTensor] = {}
        self._collect(like)

    def add(self, value: Mapping[str, Any], like: Any, path: tuple[str, ...]) -> None:
        """Make the tensor that the JSON names."""
        dtype, shape = getattr(torch, value["dtype"]), value["shape"]
        if isinstance(like, DTensor):
            if list(like.shape) != shape or like.dtype != dtype:
                now = f"{str(like.dtype).removeprefix('torch.')} {list(like.shape)}"
                raise CheckpointError(
                    f"{'.'.join(path)} is {value['dtype']} {shape} in the checkpoint and {now} in "
                    "this run.\n  Resume with the model and options that the run began with."
                )
        else:  # a new optimizer has no state yet, so its parameter says how to shard it
            like = next((self._sharded[name] for name in path if name in self._sharded), None)
        if isinstance(like, DTensor) and list(like.shape) == shape:
            self.tensors[value["$tensor"]] = torch.empty_like(like, dtype=dtype)
        else:
            self.tensors[value["$tensor"]] = torch.empty(shape, dtype=dtype)

    def _collect(self, like: Any) -> None:
        if isinstance(like, Mapping):
            for key, value in like.items():
                if isinstance(value, DTensor):
                    self._sharded.setdefault(str(key), value)
                self._collect(value)


def _make_tensors(value: Any, like: Any, layout: _Layout, path: tuple[str, ...]) -> None:
    """Make an empty tensor for each name of the JSON."""
    if isinstance(value, list):
        inside = like if isinstance(like, list | tuple) and len(like) == len(value) else ()
        for number, item in enumerate(value):
            part = inside[number] if inside else None
            _make_tensors(item, part, layout, (*path, str(number)))
    elif isinstance(value, dict) and "$tensor" in value:
        layout.add(value, like, path)
    elif isinstance(value, dict) and "$tuple" in value:
        _make_tensors(value["$tuple"], like, layout, path)
    elif isinstance(value, dict):
        pairs = value["$map"] if "$map" in value else value.items()
        for key, item in pairs:
            is_plain = isinstance(like, Mapping) and isinstance(key, str | int)
            part = like.get(key) if is_plain else None
            _make_tensors(item, part, layout, (*path, str(key)))


@contextmanager
def _refusals_told(path: Path) -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")
        quiet = logging.getLogger("torch.distributed.checkpoint")
        was_disabled, quiet.disabled = quiet.disabled, True
        try:
            yield
        except CheckpointException as error:
            causes = [cause for cause, _ in error.failures.values()]
            raise CheckpointError(
                f"cannot write or read the tensors of {path}: {causes[0]}.\n"
                "  Checkpoints that were there before are untouched; free space or check the disk, "
                "then resume."
            ) from causes[0]
        finally:
            quiet.disabled = was_disabled


def _has_group() -> bool:
    return dist.is_available() and dist.is_initialized()


def _rank() -> int:
    return dist.get_rank() if _has_group() else 0


def _gather(own: Mapping[str, Any]) -> dict[str, Any]:
    """Join the entries of all ranks, tensors written out: they are small."""
    mine: dict[str, Any] = to_json(own, None, (_OWN,))
    if not _has_group():
        return mine
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, mine)
    return {name: value for one in everyone for name, value in one.items()}


def _from_first(work: Callable[[], _Value]) -> _Value:
    """Do something in rank 0 alone, and give its result, or its failure, to all."""
    if not _has_group():
        return work()
    outcome: list[Any] = [None, None]
    failure: CheckpointError | None = None
    if dist.get_rank() == 0:
        try:
            outcome[0] = work()
        except CheckpointError as error:
            failure = error
            outcome[1] = str(error)
    dist.broadcast_object_list(outcome, src=0)
    if failure is not None:
        raise failure
    if outcome[1] is not None:
        raise CheckpointError(outcome[1])
    value: _Value = outcome[0]
    return value
