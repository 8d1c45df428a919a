"""From paths to examples, lazily: read, recognise, filter, split; the ledger sees every row.

Each function makes one pass and yields what is left of it. Every row it yields is still pending
in the ledger: whoever encodes it calls `ledger.keep` or `ledger.drop`, and `ledger.close` when the
rows have ended.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence

from yearling.core.errors import DataError
from yearling.data.config import DataConfig
from yearling.data.examples import Example
from yearling.data.filters import Filter, filters
from yearling.data.ledger import Ledger
from yearling.data.rows import BadRow, Row, RowId
from yearling.data.sampling import sample_rows
from yearling.data.schema import SchemaName, read_row
from yearling.data.sources import find_sources
from yearling.data.split import is_validation

__all__ = ["has_validation", "read_examples", "read_training", "read_validation"]

Examples = Iterator[tuple[RowId, Example]]

_CHECKED_EVERY_ROWS = 1_000
_HOPELESS_ROWS = 100
_logger = logging.getLogger(__name__)


def has_validation(config: DataConfig) -> bool:
    """Say whether a configuration sets rows apart for validation."""
    return bool(config.validation_paths or config.validation_fraction)


def read_examples(config: DataConfig, ledger: Ledger) -> Examples:
    """Give every example of `paths` that the filters leave, training and validation alike.

    Raises:
        DataError: a path leads to nothing or to an unreadable file, or more rows are lost than
            `max_drop` allows.
    """
    examples = _read(config.paths, config, ledger)
    yield from _filtered(examples, config, ledger)


def read_training(config: DataConfig, ledger: Ledger) -> Examples:
    """Give the examples to train on; those for validation are set aside.

    Raises:
        DataError: as `read_examples`.
    """
    return _part(config, ledger, wants_validation=False)


def read_validation(config: DataConfig, ledger: Ledger) -> Examples:
    """Give the examples to validate on.

    With `validation_paths` no filter runs: what somebody chose to measure on stays as it is.

    Raises:
        DataError: as `read_examples`.
    """
    if config.validation_paths:
        return _read(config.validation_paths, config, ledger)
    return _part(config, ledger, wants_validation=True)


def _part(config: DataConfig, ledger: Ledger, *, wants_validation: bool) -> Examples:
    for row, example in read_examples(config, ledger):
        if is_validation(example, config.validation_fraction, config.seed) == wants_validation:
            yield row, example
        else:
            ledger.put_aside(row)


def _read(paths: Sequence[str], config: DataConfig, ledger: Ledger) -> Examples:
    for path in paths:
        yield from _recognised(_rows(path, config, ledger), config.row_schema, ledger)
    ledger.check(config.max_drop)


def _rows(path: str, config: DataConfig, ledger: Ledger) -> Iterator[Row]:
    """Good rows of one path; the ledger gets the bad ones, and all are counted."""
    found = find_sources(path)
    rows = _good(found.read(), config, ledger)
    if found.sample is None:
        yield from rows
    else:
        yield from sample_rows(rows, found.sample, config.seed, ledger)


def _good(rows: Iterable[Row | BadRow], config: DataConfig, ledger: Ledger) -> Iterator[Row]:
    for row in rows:
        ledger.enter()
        if isinstance(row, BadRow):
            ledger.drop(row.id, row.reason, row.detail)
        else:
            yield row
        _stop_early(config, ledger)


def _stop_early(config: DataConfig, ledger: Ledger) -> None:
    """Stop a pass that cannot end well: nothing usable at all, or a stream losing too much."""
    is_hopeless = ledger.rows_in == ledger.num_lost == _HOPELESS_ROWS
    is_due = config.is_streaming and ledger.rows_in % _CHECKED_EVERY_ROWS == 0
    if is_hopeless or is_due:
        ledger.check(config.max_drop)


def _recognised(rows: Iterable[Row], schema: SchemaName, ledger: Ledger) -> Examples:
    for row in rows:
        try:
            example, unused = read_row(row.values, schema)
        except DataError as error:
            ledger.drop(row.id, "its columns do not fit a schema", str(error))
            continue
        ledger.note_unused(unused)
        yield row.id, example


def _filtered(examples: Examples, config: DataConfig, ledger: Ledger) -> Examples:
    steps = [(step.name, filters.get(step.name).build(step.options)) for step in config.filters]
    for row, example in examples:
        if not any(_rejects(name, judge, row, example, ledger) for name, judge in steps):
            yield row, example


def _rejects(name: str, judge: Filter, row: RowId, example: Example, ledger: Ledger) -> bool:
    rejection = judge(row, example)
    if rejection is None:
        return False
    ledger.drop(row, rejection.reason, rejection.detail, by=name)
    return True
