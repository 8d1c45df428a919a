"""`yearling explain`: where a model came from, step by step."""

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from yearling.core.lineage import LineageRecord

__all__ = ["explain"]

_SHOWN_HASHES = 6


def explain(
    name: Annotated[
        str,
        typer.Argument(
            help="Folder of a run or model, file, name of what was made, or first digits of a "
            "record's id."
        ),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print the records as JSON.")] = False,
) -> None:
    """Print the chain of steps that led to something: data, configuration, base, scores."""
    from yearling.training.run_card import explain as find_chain

    chain = find_chain(name)
    if as_json:
        records = [{"id": record.id, **record.model_dump(mode="json")} for record in chain]
        typer.echo(json.dumps(records, indent=1))
        return
    for record in chain:
        for line in _lines(record):
            typer.echo(line)


def _lines(record: "LineageRecord") -> Iterator[str]:
    yield f"{record.step:9} {record.name}  {record.created}  yearling {record.version}"
    yield f"  record    {record.id}"
    if record.configuration is not None:
        yield f"  settings  {record.configuration}"
    yield from _hash_lines("from", record.data)
    yield from _hash_lines("made", record.outputs)
    for parent in record.parents:
        yield f"  after     {parent}"


def _hash_lines(label: str, hashes: Mapping[str, str]) -> Iterator[str]:
    for number, (key, value) in enumerate(hashes.items()):
        if number == _SHOWN_HASHES:
            yield f"  {'':9} and {len(hashes) - number} more"
            return
        yield f"  {label if not number else '':9} {value[:12]}  {key}"
