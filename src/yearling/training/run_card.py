"""The run card: what a run was made from, for people and for programs, linked to its base's record.

`run.json` holds hashes of data, configuration, base, and of template with tokenizer; `README.md`
says the same to a reader, under the front matter that model hubs know. Both lie in the run's
folder and beside the model, so a model that is passed on still says where it came from.
"""

import json
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError

from yearling.core.config import Config
from yearling.core.errors import LineageError
from yearling.core.lineage import LineageLedger, LineageRecord, hash_json
from yearling.models.trained_template import RUN_FILE, TEMPLATE_FILE, hash_template
from yearling.serving.conversion import hashes_of
from yearling.training.config import TrainConfig
from yearling.training.context import ContextConfig, context_notice
from yearling.training.method import methods

__all__ = [
    "BaseModel",
    "RunCard",
    "explain",
    "find_record",
    "make_run_card",
    "pass_on_run_card",
    "read_run_card",
    "write_run_card",
]

_README = "README.md"
_LIBRARIES = ("torch", "transformers", "peft", "datasets", "numpy", "tokenizers")


class BaseModel(Config):
    """The model that a run started from."""

    name: str = Field(description="As the configuration names it.")
    hashes: Mapping[str, str] = Field(description="SHA-256 of its file, or of each of its files.")


class RunCard(Config):
    """Everything that decided what a run made."""

    method: str = Field(description="Training method.")
    adapter: str | None = Field(default=None, description="Kind of adapter; none for all weights.")
    base: BaseModel = Field(description="What it started from.")
    data: Mapping[str, str] = Field(description="Hash of each part of the rows, as they were read.")
    template_hash: str = Field(description="SHA-256 of chat template and tokenizer.")
    chat_template: str | None = Field(
        default=None,
        description="SHA-256 of the template's text; none where no conversations were learned.",
    )
    configuration: Mapping[str, Any] = Field(description="Resolved; every default is in it.")
    seed: int = Field(description="Of everything random.")
    scores: Mapping[str, float] = Field(description="Last and best losses, and other results.")
    record: str = Field(default="", description="Id of the lineage record.")
    created: str = Field(default="", description="Time in UTC, ISO 8601, to the second.")
    versions: Mapping[str, str] = Field(default_factory=dict, description="Of the libraries.")


def make_run_card(
    config: TrainConfig,
    base: Path,
    template_hash: str,
    *,
    report: Mapping[str, Mapping[str, Any]],
    scores: Mapping[str, float | None],
) -> RunCard:
    """Gather what is known of a run when it ends.

    Args:
        config: Of the run.
        base: File or folder of the model it started from.
        template_hash: The renderer's.
        report: What became of the rows, by part: `training`, `validation`.
        scores: By name; those that are not known are left out.
    """
    return RunCard(
        method=config.method.name,
        adapter=None if config.adapter is None else config.adapter.name,
        base=BaseModel(name=config.model, hashes=hashes_of(base)),
        data={part: ledger["data_hash"] for part, ledger in report.items()},
        template_hash=template_hash,
        configuration=config.model_dump(mode="json"),
        seed=config.seed,
        scores={name: value for name, value in scores.items() if value is not None},
    )


def write_run_card(folder: Path, model: Path, card: RunCard) -> RunCard:
    """Write the card of a finished run and its lineage record; give the card with both filled in.

    The record's parents are the records that made the base's files, so the chain goes on there.

    Args:
        folder: Of the run.
        model: What the run made; a copy of the card is put into it.
        card: What is known; `chat_template`, `record`, `created` and `versions` are filled in.

    Raises:
        LineageError: a record in the ledger was changed.
    """
    from yearling import __version__

    created = datetime.now(UTC).isoformat(timespec="seconds")
    ledger = LineageLedger()
    record = LineageRecord(
        step="train",
        name=str(folder),
        created=created,
        version=__version__,
        configuration=hash_json(dict(card.configuration)),
        data={**card.data, **card.base.hashes, "template": card.template_hash},
        outputs=_model_hashes(model),
        parents=ledger.makers(card.base.hashes.values()),
    )
    filled = card.model_copy(
        update={
            "chat_template": _template(model, card.method),
            "record": ledger.write(record),
            "created": created,
            "versions": _versions(),
        }
    )
    for place in (folder, model):
        (place / RUN_FILE).write_text(filled.model_dump_json(indent=1) + "\n", encoding="utf-8")
        (place / _README).write_text(_readme(folder.name, filled), encoding="utf-8")
    return filled


def pass_on_run_card(source: Path, target: Path, record: str) -> None:
    """Copy the card of a model to what was made of it by another step.

    Args:
        source: Folder with a card.
        target: Folder of what was made.
        record: Id of that step's lineage record.

    Raises:
        LineageError: the card is damaged.
    """
    card = read_run_card(source).model_copy(update={"record": record})
    (target / RUN_FILE).write_text(card.model_dump_json(indent=1) + "\n", encoding="utf-8")


def read_run_card(folder: Path) -> RunCard:
    """Read the card of a run's folder, or of the model in it.

    Raises:
        LineageError: there is none, or it is not a run card.
    """
    path = folder / RUN_FILE
    try:
        return RunCard.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise LineageError(
            f"{folder} has no {RUN_FILE}: it is no folder of a finished run.\n"
            "  Give the run's output folder, the model in it, or a lineage record's id."
        ) from None
    except (ValidationError, OSError) as error:
        raise LineageError(f"{path} is not a run card: {error}") from error


def explain(name: str) -> tuple[LineageRecord, ...]:
    """Give the records that led to something, nearest first.

    Args:
        name: A run's or model's folder, a file that some step wrote, a record's id or the first
            digits of one, or the name a step gave to what it made.

    Raises:
        LineageError: no record is known, or several are.
    """
    ledger = LineageLedger()
    return ledger.ancestry(find_record(name, ledger))


def find_record(name: str, ledger: LineageLedger) -> str:
    """Find the record of something.

    Raises:
        LineageError: there is none, or more than one.
    """
    path = Path(name)
    if path.is_dir() and (path / RUN_FILE).is_file():
        return read_run_card(path).record
    if path.exists():
        makers = ledger.makers(hashes_of(path).values())
        if makers:
            return _newest(makers, ledger)
        raise LineageError(f"no step in {ledger.folder} has written {name}.")
    ids = sorted(file.stem for file in ledger.folder.glob("*.json"))
    matches = [i for i in ids if len(name) >= 4 and i.startswith(name)]
    if len(matches) > 1:
        raise LineageError(f"{len(matches)} records begin with {name}: give more digits.")
    if matches:
        return matches[0]
    named = [i for i in ids if ledger.read(i).name == name]
    if named:
        return _newest(named, ledger)
    raise LineageError(
        f"nothing is known of {name!r}: it is no folder or file, and no record in {ledger.folder} "
        "has that id or name."
    )


def _template(model: Path, method: str) -> str | None:
    """Hash of the template that the rows were written with; documents are written without."""
    path = model / TEMPLATE_FILE
    if tuple(methods.get(method).kinds) == ("document",) or not path.is_file():
        return None
    return hash_template(path.read_bytes().decode())


def _newest(ids: Sequence[str], ledger: LineageLedger) -> str:
    return max(ids, key=lambda record_id: ledger.read(record_id).created)


def _model_hashes(model: Path) -> dict[str, str]:
    """Hashes of the model's files but the card's own, which names the record."""
    own = {f"{model.name}/{RUN_FILE}", f"{model.name}/{_README}"}
    return {name: value for name, value in hashes_of(model).items() if name not in own}


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _readme(name: str, card: RunCard) -> str:
    front: dict[str, Any] = {
        "base_model": card.base.name,
        "library_name": "transformers" if card.adapter is None else "peft",
        "tags": ["yearling", card.method, *([card.adapter] if card.adapter else [])],
    }
    head = yaml.safe_dump(front, sort_keys=False, allow_unicode=True)
    how = "all weights" if card.adapter is None else f"an adapter ({card.adapter})"
    rows = [f"| {key} | {value:.4f} |" for key, value in card.scores.items()]
    scores = ["", "| score | |", "|---|---|", *rows] if rows else []
    hashes = {
        "record": card.record,
        "configuration": hash_json(dict(card.configuration)),
        "template": card.template_hash,
        **{f"data: {key}": value for key, value in card.data.items()},
        **{f"base: {key}": value for key, value in card.base.hashes.items()},
    }
    settings = json.loads(json.dumps(card.configuration))
    lines = [
        f"---\n{head}---",
        f"# {name}",
        "",
        f"{card.base.name}, trained by `{card.method}` as {how}, seed {card.seed}, {card.created}.",
        *scores,
        *_positions(card),
        "",
        "## Where it came from",
        "",
        *[f"- {key}: `{value}`" for key, value in hashes.items()],
        "",
        "## Configuration",
        "",
        f"```yaml\n{yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)}```",
        "",
        "## Versions",
        "",
        ", ".join(f"{key} {value}" for key, value in card.versions.items()),
        "",
    ]
    return "\n".join(lines)


def _positions(card: RunCard) -> list[str]:
    """What a reader must know of an adapter with positions of its own."""
    context = card.configuration.get("context")
    if card.adapter is None or context is None:
        return []
    return ["", "## Positions", "", context_notice(ContextConfig.model_validate(context))]
