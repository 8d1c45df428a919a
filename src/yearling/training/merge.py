"""An adapter and its base become one model folder or file, with proof that it is the same model.

The result is loaded back by the engine that serves it, and its logits are compared with those of
the base with the adapter beside it.
"""

import tempfile
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from yearling.core.errors import ConfigError, ModelFormatError
from yearling.core.lineage import LineageLedger, LineageRecord
from yearling.models.adapter import refuse_changed_base
from yearling.models.checkpoint import Checkpoint, StoredTensor, open_checkpoint
from yearling.models.checkpoint.encode import from_float32
from yearling.models.checkpoint.gguf import GgufFile
from yearling.models.checkpoint.planned import PlannedTensor
from yearling.models.checkpoint.safetensors_writer import write_safetensors
from yearling.models.convert import check_target, configuration_of, convert
from yearling.models.folder_files import (
    copy_side_files,
    new_folder,
    put_template,
    write_side_files,
)
from yearling.models.torch_decoder import Segments, TorchDecoder, load_torch_decoder
from yearling.models.trained_template import RUN_FILE, TEMPLATE_FILE
from yearling.serving.conversion import (
    TOLERANCES,
    LogitDifference,
    hashes_of,
    logits_between,
    logits_of,
    random_sequences,
)
from yearling.training.context import configuration_with, read_adapter_context, spec_with
from yearling.training.lora_layers import (
    attach_low_rank,
    load_low_rank,
    low_rank_of,
    merge_low_rank,
    without_low_rank,
)
from yearling.training.peft_folder import PeftFolder, read_peft_folder
from yearling.training.run_card import pass_on_run_card

__all__ = ["MergeReport", "merge", "record_step", "write_model_folder"]


@dataclass(frozen=True, slots=True)
class MergeReport:
    """What a merge did.

    Attributes:
        target: What was written.
        logits: How far the written model is from the base with the adapter beside it.
        change: How far the base alone is from that.
        tolerance: The most that `logits.typical` over `logits.spread` may be.
        record: Id of the lineage record.
    """

    target: Path
    logits: LogitDifference
    change: LogitDifference
    tolerance: float
    record: str

    @property
    def is_within_tolerance(self) -> bool:
        """Whether the logits are as near as they must be."""
        return self.logits.typical <= self.tolerance * self.logits.spread


def merge(
    adapter: Path,
    base: Path,
    target: Path,
    wanted: str | None = None,
    *,
    tolerance: float | None = None,
) -> MergeReport:
    """Merge an adapter into its base, load the result back, compare, and write a lineage record.

    Positions and chat template that the adapter was trained with go into the result.

    Args:
        adapter: A folder in PEFT's format.
        base: A GGUF file or a Hugging Face folder.
        target: A name that ends in `.gguf` becomes a file, another a folder.
        wanted: Format of the matrices; F32 by default.
        tolerance: The most that logits may differ, in standard deviations; None takes what the
            format should cost.

    Raises:
        ConfigError: the target exists, or cannot hold the format.
        ModelError: the adapter or the base cannot be read, or do not belong together; or the
            target's format has no place for the positions of training.
    """
    name = wanted or "F32"
    check_target(target, name, is_file=target.suffix == ".gguf")
    saved = read_peft_folder(adapter)
    refuse_changed_base(adapter, saved.settings)
    context = read_adapter_context(adapter)
    with closing(open_checkpoint(base)) as checkpoint:
        spec = spec_with(checkpoint.spec, context)
        if spec != checkpoint.spec:
            configuration_with(checkpoint, spec)  # refuses what cannot be said, before the work
        decoder = load_torch_decoder(checkpoint, spec=spec).eval()
        _put_in(decoder, saved)
        with without_low_rank(decoder):
            before = _logits(decoder)
        expected = _logits(decoder)
        merge_low_rank(decoder)
        if target.suffix == ".gguf":
            _write_file(target, checkpoint, decoder, adapter, name)
        else:
            write_model_folder(target, checkpoint, decoder, name)
            _put_trained_template(target, adapter)
    record = record_step("merge", target, (adapter, base))
    if target.is_dir() and (adapter / RUN_FILE).is_file():
        pass_on_run_card(adapter, target, record)
    return MergeReport(
        target,
        logits_between(expected, logits_of(target)),
        logits_between(expected, before),
        TOLERANCES[name] if tolerance is None else tolerance,
        record,
    )


def _put_in(decoder: TorchDecoder, saved: PeftFolder) -> None:
    try:
        attach_low_rank(decoder, low_rank_of(saved), seed=0)
    except ConfigError as error:
        raise ModelFormatError(f"{saved.path} is an adapter of another model: {error}") from error
    load_low_rank(decoder, saved.path)


def _logits(decoder: TorchDecoder) -> NDArray[np.float32]:
    sequences = torch.from_numpy(random_sequences(decoder.spec.vocabulary))
    with torch.no_grad():
        rows = [decoder.logits(decoder(ids, Segments([len(ids)]))) for ids in sequences]
    return torch.stack(rows).numpy()


def write_model_folder(
    target: Path, checkpoint: Checkpoint, decoder: TorchDecoder, name: str = "F32"
) -> None:
    """Write a decoder as a Hugging Face folder, with all that stood beside the base's weights.

    Args:
        target: Nothing may be there.
        checkpoint: The base, which gives configuration, tokenizer and template.
        decoder: Without an adapter; where its positions are not the base's, config.json says so.
        name: F32, F16 or BF16.

    Raises:
        ModelFormatError: config.json has no place for the model.
    """
    is_changed = decoder.spec != checkpoint.spec
    changed = configuration_with(checkpoint, decoder.spec) if is_changed else None
    values = decoder.state_dict()
    names = dict.fromkeys(place.name for place in decoder.places.values())

    def plan(tensor: str) -> PlannedTensor:
        def read() -> StoredTensor:
            return from_float32(values[tensor].float().cpu().numpy(), name)

        return PlannedTensor(tensor, name, tuple(values[tensor].shape), read)

    is_folder = checkpoint.path.is_dir()
    config = {} if is_folder else changed or configuration_of(checkpoint)
    with new_folder(target) as folder:
        write_safetensors(folder, [plan(tensor) for tensor in names])
        if is_folder:
            copy_side_files(folder, checkpoint, name, changed)
        else:
            metadata = GgufFile(checkpoint.path).metadata
            write_side_files(folder, checkpoint, config, metadata, name)


def _put_trained_template(folder: Path, adapter: Path) -> None:
    """Give a merged folder the chat template that the adapter's rows were written with."""
    path = adapter / TEMPLATE_FILE
    if path.is_file() and (folder / "tokenizer_config.json").is_file():
        put_template(folder, path.read_bytes().decode())


def _write_file(
    target: Path, checkpoint: Checkpoint, decoder: TorchDecoder, adapter: Path, name: str
) -> None:
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as beside:
        folder = Path(beside) / "merged"
        write_model_folder(folder, checkpoint, decoder)
        _put_trained_template(folder, adapter)
        convert(folder, target, name)


def record_step(step: str, target: Path, sources: Iterable[Path]) -> str:
    """Write a lineage record, linked to those of whatever made its sources; give its id."""
    from yearling import __version__

    data = {name: value for source in sources for name, value in hashes_of(source).items()}
    ledger = LineageLedger()
    record = LineageRecord(
        step=step,
        name=target.name,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        version=__version__,
        data=data,
        outputs=hashes_of(target),
        parents=ledger.makers(data.values()),
    )
    return ledger.write(record)
