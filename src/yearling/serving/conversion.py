"""A conversion with its proof: the result is loaded back and compared with its source."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from yearling.core.lineage import LineageLedger, LineageRecord, hash_file
from yearling.models.conversion_check import FormatChange, compare_models
from yearling.models.convert import convert
from yearling.serving.llm import LLM

__all__ = [
    "TOLERANCES",
    "ConversionReport",
    "LogitDifference",
    "compare_logits",
    "convert_with_proof",
    "hashes_of",
    "logits_between",
    "logits_of",
    "random_sequences",
]

FloatArray = NDArray[np.float32]

_NUM_SEQUENCES, _SEQUENCE_TOKENS = 4, 32
_SEED = 2023
_UNCHANGED_TOLERANCE = 1e-4
TOLERANCES = {
    "F32": 0.001,
    "F16": 0.02,
    "BF16": 0.1,
    "Q8_0": 0.2,
    "Q6_K": 0.4,
    "Q5_0": 0.8,
    "Q5_1": 0.8,
    "Q5_K": 0.8,
    "Q4_0": 1.2,
    "Q4_1": 1.2,
    "Q4_K": 1.2,
}
"""Several times what SmolLM2-135M shows; unrelated logits are √2 standard deviations apart."""


@dataclass(frozen=True, slots=True)
class LogitDifference:
    """How far the logits of two models are apart on the same random sequences.

    Attributes:
        worst: Largest difference of one logit.
        typical: Root mean square of the differences.
        spread: Standard deviation of the source's logits.
    """

    worst: float
    typical: float
    spread: float


@dataclass(frozen=True, slots=True)
class ConversionReport:
    """What a conversion did.

    Attributes:
        target: What was written.
        changes: Weights by their formats before and after.
        logits: The difference of logits, or None when it was not asked for.
        tolerance: The most that `typical` over `spread` may be.
        record: Id of the lineage record.
    """

    target: Path
    changes: tuple[FormatChange, ...]
    logits: LogitDifference | None
    tolerance: float
    record: str

    @property
    def is_within_tolerance(self) -> bool:
        """Whether the logits are as near as they must be."""
        if self.logits is None:
            return True
        return self.logits.typical <= self.tolerance * self.logits.spread


def convert_with_proof(
    source: Path,
    target: Path,
    wanted: str | None = None,
    *,
    tolerance: float | None = None,
    has_logits: bool = True,
) -> ConversionReport:
    """Convert a model, load the result back, compare, and write a lineage record.

    Args:
        source: A GGUF file or a Hugging Face folder.
        target: A file that ends in `.gguf`, or a folder.
        wanted: Format of matrices; None keeps what there is.
        tolerance: The most that logits may differ, in standard deviations of the source's; None
            takes 0.0001 where no number changed, and what the coarsest new format should cost.
        has_logits: Whether to run both models; where memory is too small for float32 weights
            the comparison of every number stands alone.

    Raises:
        ConfigError: the target exists, or cannot hold the format.
        ModelError: the source cannot be read or written so, or the result describes another model.
    """
    convert(source, target, wanted)
    changes = compare_models(source, target)
    logits = compare_logits(source, target) if has_logits else None
    allowed = _tolerance(changes) if tolerance is None else tolerance
    return ConversionReport(target, changes, logits, allowed, _record(source, target))


def compare_logits(source: Path, target: Path) -> LogitDifference:
    """Run two models on the same random sequences, one after the other, with float32 weights.

    Raises:
        ModelError: one of them cannot be loaded.
    """
    return logits_between(logits_of(source), logits_of(target))


def logits_between(before: FloatArray, after: FloatArray) -> LogitDifference:
    """Say how far logits are apart from those that they should be."""
    differences = np.abs(before - after)
    typical = float(np.sqrt(np.mean(np.square(differences), dtype=np.float64)))
    return LogitDifference(float(differences.max()), typical, float(before.std(dtype=np.float64)))


def logits_of(path: Path) -> FloatArray:
    """Run a model on the same random sequences as every other, with float32 weights."""
    with LLM(path, weights="float32", context=_SEQUENCE_TOKENS * 2) as llm:
        vocabulary = len(llm.logits([0])[0])
        return np.stack([llm.logits(ids.tolist()) for ids in random_sequences(vocabulary)])


def random_sequences(vocabulary: int) -> "np.ndarray[tuple[int, ...], np.dtype[np.int64]]":
    """Give the sequences (4, 32) that models are compared on."""
    random = np.random.default_rng(_SEED)
    return random.integers(0, vocabulary, (_NUM_SEQUENCES, _SEQUENCE_TOKENS))


def _tolerance(changes: Sequence[FormatChange]) -> float:
    changed = [change.after for change in changes if change.changed_values]
    return max((TOLERANCES[name] for name in changed), default=_UNCHANGED_TOLERANCE)


def _record(source: Path, target: Path) -> str:
    from yearling import __version__

    record = LineageRecord(
        step="convert",
        name=target.name,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        version=__version__,
        data=hashes_of(source),
        outputs=hashes_of(target),
    )
    return LineageLedger().write(record)


def hashes_of(path: Path) -> dict[str, str]:
    """Give the SHA-256 of a file, or of every file of a folder, by name."""
    if path.is_file():
        return {path.name: hash_file(path)}
    files = sorted(file for file in path.rglob("*") if file.is_file())
    return {f"{path.name}/{file.relative_to(path)}": hash_file(file) for file in files}
