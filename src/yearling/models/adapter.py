"""Low-rank adapters in PEFT's format, as updates of a model's own matrices.

An update of a matrix W (outputs, inputs) is W + second @ first, with first (rank, inputs) and
second (outputs, rank), which holds the factor alpha / r. A module that fuses several matrices
has one update for all; it is cut into theirs.

Source: Hu et al. 2021, arXiv:2106.09685; rank-stabilised factor, Kalajdzievski 2023,
arXiv:2312.03732.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from yearling.core.errors import ModelFormatError, ModelNotFoundError
from yearling.models.checkpoint.formats import to_float32
from yearling.models.checkpoint.safetensors import read_safetensors_header
from yearling.models.checkpoint.source import SourceFile
from yearling.models.families import families
from yearling.models.json_file import read_json_object
from yearling.models.places import Place, hugging_face_places
from yearling.models.spec import ModelSpec
from yearling.models.weights import Role, Weight

__all__ = ["LowRankAdapter", "Update", "read_adapter", "refuse_changed_base"]

Floats = NDArray[np.float32]

_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_MAX_CONFIG_BYTES = 1 << 20
_PREFIX = "base_model.model."  # what PEFT puts before the names of a model's modules
_POSITIONS = "yearling_context.json"  # beside an adapter that was trained with other positions

_READ = frozenset({"peft_type", "r", "lora_alpha", "use_rslora"})
_INERT = frozenset(
    (
        *("auto_mapping", "base_model_name_or_path", "inference_mode", "peft_version", "revision"),
        *("runtime_config", "task_type", "megatron_config", "megatron_core", "qalora_group_size"),
        *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"),
        *("init_lora_weights", "lora_dropout", "fan_in_fan_out", "ensure_weight_tying"),
    )
)
"""Settings that change nothing of what is computed from the matrices in the file."""


@dataclass(frozen=True, slots=True)
class Update:
    """What is added to a matrix: second @ first."""

    first: Floats
    second: Floats


@dataclass(frozen=True, slots=True)
class LowRankAdapter:
    """An adapter of one model.

    Attributes:
        path: Its folder.
        updates: By layer and role of the matrix.
        version: Changes whenever they do.
    """

    path: Path
    updates: Mapping[tuple[int, Role], Update]
    version: str


def read_adapter(folder: Path, spec: ModelSpec) -> LowRankAdapter:
    """Read an adapter and find the matrices that it changes.

    Raises:
        ModelNotFoundError: the folder holds none in PEFT's format.
        ModelFormatError: it is malformed, of another kind, or of another model; the message names
            modules that this model has.
    """
    for name in (_CONFIG, _WEIGHTS):
        if not _is_file(folder / name):
            raise ModelNotFoundError(
                f"{folder} holds no {name}, so it is no adapter in PEFT's format."
            )
    if (folder / _POSITIONS).exists():
        raise _merge_instead(folder, "it was trained with other positions than its base has")
    settings = read_json_object(folder / _CONFIG, _MAX_CONFIG_BYTES)
    factor = _factor(folder, settings)
    modules = _modules(spec)
    updates: dict[tuple[int, Role], Update] = {}
    for name, (first, second) in _matrices(folder).items():
        if name not in modules:
            raise _unknown(folder, name, modules)
        weights = modules[name]
        inputs = weights[0][0].shape[1]
        outputs = sum(weight.shape[0] for weight, _ in weights)
        if first.shape[1] != inputs or second.shape[0] != outputs:
            raise ModelFormatError(
                f"{folder} is an adapter of another model: its update of {name} is "
                f"({second.shape[0]}, {first.shape[1]}), and the matrix here ({outputs}, {inputs})."
            )
        for weight, place in weights:
            assert weight.layer is not None, "of a layer, or it were no module"
            rows = second if place.rows is None else second[place.rows]
            updates[weight.layer, weight.role] = Update(first, rows * np.float32(factor))
    if not updates:
        raise ModelFormatError(f"{folder / _WEIGHTS} holds no update of any matrix.")
    return LowRankAdapter(folder, updates, _version(folder, factor))


def _factor(folder: Path, settings: Mapping[str, Any]) -> float:
    """The factor on the updates, once nothing else would change them."""
    kind = settings.get("peft_type")
    if kind != "LORA":
        raise ModelFormatError(f"{folder}: peft_type={kind!r} is no low-rank adapter.")
    refuse_changed_base(folder, settings)
    off: tuple[Any, ...] = (None, False, "", "none", "NONE", [], {})
    for key, value in sorted(settings.items()):
        if key not in _READ | _INERT and value not in off:
            raise _merge_instead(folder, f"{key}={value!r} is not computed beside a base")
    try:
        rank, alpha = int(settings["r"]), float(settings["lora_alpha"])
        factor = alpha / (math.sqrt(rank) if settings.get("use_rslora") else rank)
    except (ArithmeticError, KeyError, TypeError, ValueError) as error:
        raise ModelFormatError(f"{folder / _CONFIG}: r and lora_alpha: {error!r}.") from error
    if rank < 1 or not math.isfinite(factor):
        raise ModelFormatError(
            f"{folder / _CONFIG}: r={rank} and lora_alpha={alpha:g} make no factor."
        )
    return factor


def refuse_changed_base(folder: Path, settings: Mapping[str, Any]) -> None:
    """Refuse an adapter whose beginning changed the base as well, as PiSSA's does.

    Raises:
        ModelFormatError: the base would have to be changed for it.
    """
    start = settings.get("init_lora_weights", True)
    if start not in (None, True, False, "gaussian", "eva", "orthogonal"):
        raise ModelFormatError(
            f"{folder}: init_lora_weights={start!r:.40} changes the base's weights as well. "
            "Convert the adapter with PEFT: "
            "save_pretrained(…, path_initial_model_for_weight_conversion=…)."
        )


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that no file can have
        return False


def _version(folder: Path, factor: float) -> str:
    with (folder / _WEIGHTS).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    digest.update(repr(factor).encode())
    return digest.hexdigest()


def _matrices(folder: Path) -> dict[str, tuple[Floats, Floats]]:
    """First and second matrix of each module's update."""
    source = SourceFile(folder / _WEIGHTS)
    with closing(source):
        stored = {
            name: to_float32(source.read_tensor(name, place))
            for name, place in read_safetensors_header(source).items()
        }
    found: dict[str, dict[str, Floats]] = {}
    for name, values in stored.items():
        module, _, part = name.removeprefix(_PREFIX).partition(".lora_")
        if part not in ("A.weight", "B.weight") or values.ndim != 2:
            raise _merge_instead(folder, f"it holds {name}, which is no update of a matrix")
        found.setdefault(module, {})[part] = values
    pairs = {}
    for module, parts in found.items():
        is_pair = len(parts) == 2 and len(parts["A.weight"]) == parts["B.weight"].shape[1] > 0
        if not is_pair:
            raise ModelFormatError(
                f"{folder / _WEIGHTS}: lora_A and lora_B of {module} do not fit each other."
            )
        pairs[module] = parts["A.weight"], parts["B.weight"]
    return pairs


def _modules(spec: ModelSpec) -> dict[str, list[tuple[Weight, Place]]]:
    """Matrices of the layers by the names of the modules that hold them."""
    modules: dict[str, list[tuple[Weight, Place]]] = {}
    if spec.family not in families.names():
        return modules
    names = families.get(spec.family).names(spec)
    for weight, place in hugging_face_places(spec, names).items():
        if weight.layer is None or weight.part != "weight" or len(place.shape) != 2:
            continue
        if place.name.endswith(".weight"):
            modules.setdefault(place.name.removesuffix(".weight"), []).append((weight, place))
    return modules


def _unknown(folder: Path, name: str, modules: Mapping[str, Sequence[object]]) -> ModelFormatError:
    if not modules:
        return ModelFormatError(
            f"{folder} changes {name}, but the modules of this model's family have no names here."
        )
    last = sorted({module.rpartition(".")[2] for module in modules})
    return ModelFormatError(
        f"{folder} is an adapter of another model: it changes {name}, and this model has no such "
        f"module that an adapter may change. Expected are names such as {next(iter(modules))}, "
        f"which end in {', '.join(last)}."
    )


def _merge_instead(folder: Path, why: str) -> ModelFormatError:
    return ModelFormatError(
        f"{folder} cannot be served beside its base: {why}. Merge it: "
        f"yearling merge {folder} BASE TARGET."
    )
