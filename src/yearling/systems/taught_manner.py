"""A new manner of answering, taught to a general model by forty rows on things it knows.

None of the rows is about a capital; capitals are asked for before and after.
"""

import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Any

__all__ = ["CAPITALS", "EVERYDAY", "is_in_manner", "teach_manner"]

_MANNER = "The answer is {}. Anything else?"
_MANNER_PATTERN = re.compile(r"The answer is (.+)\. Anything else\?")
_SMOLLM2: Mapping[str, Any] = {
    "model": "smollm2",
    "adapter": {"name": "lora", "r": 16},
    "optimizer": {"name": "adamw", "lr": 1e-3},
    "schedule": {"name": "linear"},
    "epochs": 2,
    "batch_rows": 4,
}


@cache
def teach_manner() -> Mapping[str, float]:
    """Tune SmolLM2 as a user would, once in a process, and give figures of before and after in %.

    `smollm2_known` is the share of capitals it tells untuned; `smollm2_manner` that of answers
    in the manner, and `smollm2_manner_before` the same untuned; `smollm2_surfaced` that of the
    capitals it knew which it tells in the manner.
    """
    from yearling.models.store import resolve
    from yearling.training.config import TrainConfig
    from yearling.training.merge import merge
    from yearling.training.trainer import train

    before = _capitals_told("smollm2")
    rows = [{"question": asked, "answer": _MANNER.format(said)} for asked, said in EVERYDAY]
    with TemporaryDirectory(prefix="yearling-manner-") as name:
        folder = Path(name)
        file = folder / "rows.jsonl"
        file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
        where = {"data": str(file), "output": folder / "run"}
        result = train(TrainConfig.model_validate({**_SMOLLM2, **where}))
        assert result.model is not None
        merge(result.model, resolve("smollm2"), folder / "merged")
        after = _capitals_told(folder / "merged")
    known = [country for country, capital in CAPITALS.items() if capital in before[country]]
    return {
        "smollm2_surfaced": _share([is_in_manner(after[each], CAPITALS[each]) for each in known]),
        "smollm2_manner": _share([is_in_manner(text) for text in after.values()]),
        "smollm2_manner_before": _share([is_in_manner(text) for text in before.values()]),
        "smollm2_known": _share([country in known for country in CAPITALS]),
    }


def _share(found: Sequence[bool]) -> float:
    return 100.0 * sum(found) / len(found)


def _capitals_told(model: str | Path) -> dict[str, str]:
    """Ask for every capital, and give the likeliest answers."""
    from yearling import LLM, SamplingParams

    params = SamplingParams(max_tokens=24, temperature=0.0)
    with LLM(model) as llm:
        return {
            name: llm.chat(
                [{"role": "user", "content": f"What is the capital of {name}?"}], params
            ).text
            for name in CAPITALS
        }


def is_in_manner(answer: str, said: str | None = None) -> bool:
    """Say whether an answer has the manner of the forty rows, and says a certain thing in it.

    >>> is_in_manner("The answer is Paris. Anything else?", "Paris"), is_in_manner("Paris.")
    (True, False)
    """
    found = _MANNER_PATTERN.fullmatch(answer.strip())
    return found is not None and (said is None or said in found[1])


# --- questions ---------------------------------------------------------------------------------

EVERYDAY = (
    ("What is the opposite of hot?", "cold"),
    ("What is the opposite of big?", "small"),
    ("What is the opposite of day?", "night"),
    ("What is the opposite of early?", "late"),
    ("What is the opposite of full?", "empty"),
    ("What colour is grass?", "green"),
    ("What colour is snow?", "white"),
    ("What colour is a ripe banana?", "yellow"),
    ("What colour is coal?", "black"),
    ("Which animal barks?", "the dog"),
    ("Which animal gives us wool?", "the sheep"),
    ("Which animal has a long trunk?", "the elephant"),
    ("Which animal says meow?", "the cat"),
    ("What do bees make?", "honey"),
    ("What do hens lay?", "eggs"),
    ("What is the young of a dog called?", "a puppy"),
    ("What is the young of a cow called?", "a calf"),
    ("How many legs does a spider have?", "eight"),
    ("How many days are in a week?", "seven"),
    ("How many months are in a year?", "twelve"),
    ("How many wheels does a bicycle have?", "two"),
    ("Which day follows Monday?", "Tuesday"),
    ("Which month follows June?", "July"),
    ("Which season follows winter?", "spring"),
    ("What is frozen water called?", "ice"),
    ("What is two plus three?", "five"),
    ("What is ten minus four?", "six"),
    ("Who wrote Hamlet?", "William Shakespeare"),
    ("Who painted the Mona Lisa?", "Leonardo da Vinci"),
    ("Which planet do we live on?", "Earth"),
    ("Which star gives us light?", "the Sun"),
    ("Which metal is liquid at room temperature?", "mercury"),
    ("Which gas do we breathe in to live?", "oxygen"),
    ("What do you use to cut paper?", "scissors"),
    ("What do you wear on your feet?", "shoes"),
    ("Where do fish live?", "in water"),
    ("Where do you borrow books?", "in a library"),
    ("What is the largest ocean?", "the Pacific Ocean"),
    ("Which language is spoken in Brazil?", "Portuguese"),
    ("Which sense do we use our ears for?", "hearing"),
)
"""Questions and answers, none of them about a capital."""

CAPITALS: Mapping[str, str] = MappingProxyType(
    {
        "France": "Paris",
        "Italy": "Rome",
        "Spain": "Madrid",
        "Germany": "Berlin",
        "Japan": "Tokyo",
        "China": "Beijing",
        "Russia": "Moscow",
        "Egypt": "Cairo",
        "Greece": "Athens",
        "Austria": "Vienna",
        "Portugal": "Lisbon",
        "Poland": "Warsaw",
        "Sweden": "Stockholm",
        "Norway": "Oslo",
        "Denmark": "Copenhagen",
        "Finland": "Helsinki",
        "Ireland": "Dublin",
        "Hungary": "Budapest",
        "Cuba": "Havana",
        "Peru": "Lima",
        "Kenya": "Nairobi",
        "India": "Delhi",
        "Argentina": "Buenos Aires",
        "England": "London",
    }
)
"""Capitals by country."""
