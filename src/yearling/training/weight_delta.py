"""Weight deltas: what tuning added to a base, for bases that may not be passed on.

A folder holds the tuned model's configuration and tokenizer, `delta/model.safetensors` with tuned
less base for every tensor, and `weight_delta.json`, which names the base by a hash of its numbers:
a GGUF file and a folder of the same float32 weights are the same base. A larger vocabulary's new
rows are stored as they are. BayLing and other models derived from LLaMA were published so; here the
difference cannot be taken for a model by mistake, and no other base is accepted.
"""

import hashlib
import json
import tempfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from yearling.core.errors import ConfigError, ModelFormatError
from yearling.models.checkpoint import Checkpoint, open_checkpoint
from yearling.models.checkpoint.assembly import plan_tensors
from yearling.models.checkpoint.encode import from_float32
from yearling.models.checkpoint.format_choice import folder_format
from yearling.models.checkpoint.formats import StoredTensor, to_float32
from yearling.models.checkpoint.safetensors_writer import write_safetensors
from yearling.models.convert import check_target
from yearling.models.export_check import spec_differences
from yearling.models.folder_files import copy_side_files, new_folder
from yearling.models.json_file import read_json_object
from yearling.models.places import hugging_face_places
from yearling.models.weights import Weight, weights_of

__all__ = ["apply_delta", "hash_weights", "is_delta", "make_delta"]

_SETTINGS, _DELTA = "weight_delta.json", "delta"
_FORM = 1
_MAX_SETTINGS_BYTES = 1 << 16

Values = NDArray[np.float32]
Combine = Callable[[Values, Values], Values]


def hash_weights(checkpoint: Checkpoint) -> str:
    """Give the SHA-256 of a model's weights as float32, in hex, whatever the files' layout."""
    digest = hashlib.sha256()
    for weight in weights_of(checkpoint.spec):
        digest.update(repr(weight).encode())
        digest.update(to_float32(checkpoint.weight(weight)).tobytes())
    return digest.hexdigest()


def is_delta(folder: Path) -> bool:
    """Whether a folder holds a weight delta."""
    return (folder / _SETTINGS).is_file()


def make_delta(base: Path, tuned: Path, target: Path) -> None:
    """Write what a tuned model has beyond its base.

    Args:
        base: A GGUF file or a Hugging Face folder.
        tuned: A Hugging Face folder.
        target: Nothing may be there.
    Raises:
        ConfigError: the target exists, or the tuned model is a file.
        ModelFormatError: one of them cannot be read, or they are models of different shapes.
    """
    check_target(target, None, is_file=False)
    if not tuned.is_dir():
        raise ConfigError(f"{tuned} is a file; make it a folder first: yearling convert.")
    with closing(open_checkpoint(base)) as before, closing(open_checkpoint(tuned)) as after:
        _check_shapes(before, after)
        formats = {weight: after.weight(weight).format for weight in weights_of(after.spec)}
        settings = {
            "form": _FORM,
            "base_sha256": hash_weights(before),
            "tuned_sha256": hash_weights(after),
            "format": folder_format(formats.items(), None),
        }
        with new_folder(target) as folder:
            (folder / _DELTA).mkdir()
            _write(folder / _DELTA, before, after, np.subtract, "F32")
            copy_side_files(folder, after, "F32")
            (folder / _SETTINGS).write_text(json.dumps(settings, indent=2) + "\n")


def apply_delta(delta: Path, base: Path, target: Path) -> bool:
    """Add a delta to its base, and give whether the result is the tuned model to the bit.

    In float16 and bfloat16 it is; in float32 the last bit of a sum may differ.

    Raises:
        ConfigError: the target exists.
        ModelFormatError: this is another base, or a file is malformed.
    """
    check_target(target, None, is_file=False)
    settings = read_json_object(delta / _SETTINGS, _MAX_SETTINGS_BYTES)
    if settings.get("form") != _FORM:
        raise ModelFormatError(f"{delta / _SETTINGS}: form={settings.get('form')!r}, not {_FORM}.")
    with closing(open_checkpoint(base)) as before:
        found = hash_weights(before)
        if found != settings.get("base_sha256"):
            raise ModelFormatError(
                f"{delta} is for a base whose weights hash to {settings.get('base_sha256')}; those "
                f"of {base} hash to {found}. Take the base that the delta was made from, not "
                "a quantised or tuned one."
            )
        name = str(settings.get("format"))
        with new_folder(target) as folder:
            _add(delta, before, folder, name)
    with closing(open_checkpoint(target)) as after:
        return hash_weights(after) == settings.get("tuned_sha256")


def _add(delta: Path, before: Checkpoint, folder: Path, name: str) -> None:
    # The differences have a model's names and shapes, so a model's reader takes them apart.
    with tempfile.TemporaryDirectory() as beside:
        view = Path(beside)
        for file in (*delta.iterdir(), *(delta / _DELTA).iterdir()):
            (view / file.name).symlink_to(file.resolve())
        with closing(open_checkpoint(view)) as stored:
            _check_shapes(before, stored)
            _write(folder, before, stored, np.add, name)
            copy_side_files(folder, stored, name)


def _write(folder: Path, base: Checkpoint, other: Checkpoint, combine: Combine, name: str) -> None:
    """Write what comes of each weight of another model and the base's."""

    def read(weight: Weight, kept: str) -> StoredTensor:
        values = to_float32(other.weight(weight)).reshape(weight.shape)
        return from_float32(combine(values, _padded(base, weight)), kept)

    places = hugging_face_places(other.spec, other.family.names(other.spec))
    write_safetensors(folder, plan_tensors(places, lambda _: name, read))


def _padded(base: Checkpoint, weight: Weight) -> Values:
    """The base's weight, with zeros in the rows of tokens that it has not."""
    own = {(w.role, w.layer, w.expert, w.part): w for w in weights_of(base.spec)}
    found = own[weight.role, weight.layer, weight.expert, weight.part]
    values = to_float32(base.weight(found)).reshape(found.shape)
    new_rows = weight.shape[0] - found.shape[0]
    return np.pad(values, [(0, new_rows)] + [(0, 0)] * (values.ndim - 1))


def _check_shapes(base: Checkpoint, tuned: Checkpoint) -> None:
    same = replace(base.spec, vocabulary=tuned.spec.vocabulary)
    differences = spec_differences(same, tuned.spec)
    if differences or base.spec.vocabulary > tuned.spec.vocabulary:
        shown = "; ".join(differences[:3]) or f"vocabulary={tuned.spec.vocabulary} is smaller"
        raise ModelFormatError(f"{tuned.path} is no tuned {base.path}: {shown}.")
