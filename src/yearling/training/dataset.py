"""A run's rows: read, encoded by its method, in steps; the ledger says what became of each."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from yearling.core.errors import ConfigError, DataError
from yearling.data.encoded import EncodedRow
from yearling.data.examples import Continuation, Conversation, Document, Example, Preference
from yearling.data.ledger import Ledger
from yearling.data.lengths import LengthLimit, encode_rows
from yearling.data.pipeline import has_validation, read_training, read_validation
from yearling.data.render import Renderer
from yearling.data.row_error import RowError
from yearling.data.rows import RowId
from yearling.training.batch import PackedBatch, pack_rows
from yearling.training.batches import BatchSize, StreamedBatches, TokenBatches, pack_step
from yearling.training.config import TrainConfig
from yearling.training.lanes import has_lanes
from yearling.training.method import Method, methods
from yearling.training.ranks import Ranks

__all__ = ["RunData", "batch_size", "prepare_data"]

_KINDS = {
    Conversation: "conversation",
    Continuation: "continuation",
    Document: "document",
    Preference: "preference",
}
_DEFAULT_LENGTH = 2_048  # of a model that does not say how much it reads


@dataclass(frozen=True)
class RunData:
    """What a run learns from.

    Attributes:
        source: Steps of training, of this rank.
        num_steps: Of the whole run.
        validation: This rank's micro-batches to validate on; empty for none.
        epoch: Passes over the data so far.
        report: What became of every row, as JSON values; streamed rows are known once they
            have passed.
    """

    source: TokenBatches | StreamedBatches
    num_steps: int
    validation: Sequence[PackedBatch]
    epoch: Callable[[], float]
    report: Callable[[], dict[str, Any]]


def batch_size(config: TrainConfig, world: int) -> BatchSize:
    """Give the size of a step over that many processes."""
    return BatchSize(
        config.batch_tokens,
        config.micro_batch_tokens,
        config.batch_rows,
        has_lanes=has_lanes(config, world),
    )


def prepare_data(config: TrainConfig, renderer: Renderer, ranks: Ranks) -> RunData:
    """Read and encode the rows.

    Raises:
        DataError: a file cannot be read, too many rows are lost, or none is left.
        ConfigError: rows are streamed, and no number of steps is given.
    """
    ledgers = {"training": Ledger()}
    validation: list[EncodedRow] = []
    if has_validation(config.data):
        ledgers["validation"] = Ledger()
        examples = read_validation(config.data, ledgers["validation"])
        validation = list(_encoded(config, renderer, examples, ledgers["validation"]))
        ledgers["validation"].close(config.data.max_drop)
    open_rows = partial(_training_rows, config, renderer, ledgers)
    source: TokenBatches | StreamedBatches
    if config.data.is_streaming:
        source, num_steps = _streamed(config, open_rows, ranks)
        epoch: Callable[[], float] = lambda: float(source.epoch)  # noqa: E731
    else:
        held = _held(config, list(open_rows(0)), ranks)
        source, epoch = held, lambda: held.progress
        num_steps = config.steps or held.num_steps()
    return RunData(
        source,
        num_steps,
        _validation_batches(config, validation, ranks),
        epoch,
        lambda: {name: ledger.report() for name, ledger in ledgers.items()},
    )


def _training_rows(
    config: TrainConfig, renderer: Renderer, ledgers: dict[str, Ledger], epoch: int
) -> Iterator[EncodedRow]:
    """One pass; the report is that of the latest."""
    ledger = ledgers["training"] = Ledger()
    yield from _encoded(config, renderer, read_training(config.data, ledger), ledger)
    ledger.close(config.data.max_drop)


def _encoded(
    config: TrainConfig,
    renderer: Renderer,
    examples: Iterator[tuple[RowId, Example]],
    ledger: Ledger,
) -> Iterator[EncodedRow]:
    method: Method[Any] = methods.get(config.method.name)
    longest = config.data.max_length or renderer.context or _DEFAULT_LENGTH
    if config.context is not None and config.data.max_length is None:
        longest = config.context.tokens

    def encode(row_id: RowId, example: Example) -> Sequence[EncodedRow]:
        kind = _KINDS[type(example)]
        if kind not in method.kinds:
            raise RowError(
                "the method does not learn from such rows",
                f"it is a {kind}, and {config.method.name} learns from "
                f"{' or '.join(method.kinds)}.",
                row_id,
            )
        return method.encode(row_id, example, renderer, config.method.options)

    return encode_rows(examples, encode, LengthLimit(longest, config.data.overlong), ledger)


def _held(config: TrainConfig, rows: Sequence[EncodedRow], ranks: Ranks) -> TokenBatches:
    if not rows:
        raise DataError(
            f"no row of {', '.join(config.data.paths)} is left to train on.\n"
            "  Look at them with `yearling data check`; filters, the share kept back for "
            "validation, or data.max_length may have taken them all."
        )
    return TokenBatches(
        rows,
        batch_size(config, ranks.size),
        seed=config.seed,
        epochs=None if config.steps else config.epochs,
        rank=ranks.rank,
        world=ranks.size,
    )


def _streamed(
    config: TrainConfig, open_rows: Callable[[int], Iterator[EncodedRow]], ranks: Ranks
) -> tuple[StreamedBatches, int]:
    if config.steps is None:
        raise ConfigError(
            "data.is_streaming=true needs steps: rows that pass once are not counted before.\n"
            "  Set steps, or data.is_streaming=false to hold the rows in memory."
        )
    source = StreamedBatches(
        open_rows,
        batch_size(config, ranks.size),
        seed=config.seed,
        rank=ranks.rank,
        world=ranks.size,
    )
    return source, config.steps


def _validation_batches(
    config: TrainConfig, rows: Sequence[EncodedRow], ranks: Ranks
) -> list[PackedBatch]:
    if has_validation(config.data) and len(rows) < ranks.size:
        raise DataError(
            f"{len(rows)} rows are kept back for validation, and {ranks.size} is the least.\n"
            "  Set data.validation_fraction higher, name files in data.validation_paths, or leave "
            "both out."
        )
    packed = pack_step(rows, config.micro_batch_tokens, ranks.size) if rows else []
    return [pack_rows(micro_batch) for micro_batch in packed[ranks.rank :: ranks.size]]
