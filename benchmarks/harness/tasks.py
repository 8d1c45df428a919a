"""Questions with answers to choose from, as task files of the harness; written from a seed."""

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

__all__ = ["TASKS", "write_tasks"]

_SEED = 20231231

_SINGULAR = (
    *("author", "dog", "teacher", "river", "window", "garden", "letter", "engine", "doctor"),
    *("painter", "bridge", "farmer", "mountain", "village", "student", "bottle", "lamp", "sailor"),
)
_VERBS = (("is", "are"), ("was", "were"), ("has", "have"), ("does", "do"))
_BETWEEN = ("near", "behind", "beside", "next to", "in front of")
_OPPOSITES = (
    ("hot", "cold"), ("big", "small"), ("fast", "slow"), ("light", "dark"), ("high", "low"),
    ("young", "old"), ("open", "closed"), ("early", "late"), ("happy", "sad"), ("strong", "weak"),
    ("full", "empty"), ("hard", "soft"), ("loud", "quiet"), ("wet", "dry"), ("rich", "poor"),
    ("left", "right"), ("inside", "outside"), ("always", "never"), ("begin", "end"),
    ("buy", "sell"), ("love", "hate"), ("win", "lose"), ("black", "white"), ("day", "night"),
)  # fmt: skip
_FRAMES = (
    "The opposite of {} is",
    "{} is the opposite of",
    "Antonyms: good - bad, up - down, {} -",
    'Question: What is the opposite of "{}"? Answer:',
    "Not {}, but",
    "It is the contrary of {}: it is",
    "We say {} and, for the opposite,",
    "From {} to",
)


def _agreement(draw: random.Random) -> dict[str, Any]:
    """The verb agrees with the first noun, not with the nearer one."""
    first, second = draw.sample(_SINGULAR, 2)
    is_plural = draw.random() < 0.5
    nouns = (f"{first}s", second) if is_plural else (first, f"{second}s")
    singular, plural = draw.choice(_VERBS)
    question = f"The {nouns[0]} {draw.choice(_BETWEEN)} the {nouns[1]}"
    choices = [f" {singular}", f" {plural}"]
    return {"question": question, "choices": choices, "answer": int(is_plural)}


def _opposites(draw: random.Random) -> dict[str, Any]:
    """One of four words is the opposite."""
    pairs = draw.sample(_OPPOSITES, 4)
    (word, right), *others = (pair if draw.random() < 0.5 else pair[::-1] for pair in pairs)
    words = [right, *(draw.choice(pair) for pair in others)]
    draw.shuffle(words)
    question = draw.choice(_FRAMES).format(word)
    choices = [f" {choice}" for choice in words]
    return {"question": question, "choices": choices, "answer": words.index(right)}


def _sequences(draw: random.Random) -> dict[str, Any]:
    """One of four numbers continues a row of equal steps."""
    step, first = draw.choice((1, 2, 3, 5, 10)), draw.randrange(1, 40)
    row = [first + step * place for place in range(5)]
    right = row[-1] + step
    numbers = [right, right + draw.choice((1, 2)) * (step + 1), row[-1], right - step - 7]
    draw.shuffle(numbers)
    question = ", ".join(map(str, row)) + ","
    choices = [f" {number}" for number in numbers]
    return {"question": question, "choices": choices, "answer": numbers.index(right)}


TASKS: dict[str, tuple[int, Callable[[random.Random], dict[str, Any]]]] = {
    "year_one_agreement": (500, _agreement),
    "year_one_opposites": (400, _opposites),
    "year_one_sequences": (300, _sequences),
}
"""Number of questions, all different, and how one is drawn, by name of the task."""


def write_tasks(folder: Path) -> Sequence[str]:
    """Write a YAML file and a JSONL file of each task.

    Args:
        folder: Of both; made where it does not exist.

    Returns:
        Names of the tasks.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, (count, item) in TASKS.items():
        draw = random.Random(f"{_SEED}-{name}")
        lines: dict[str, None] = {}
        while len(lines) < count:
            lines[json.dumps(item(draw))] = None
        rows = folder / f"{name}.jsonl"
        rows.write_text("\n".join(lines) + "\n", encoding="utf-8")
        # JSON is YAML.
        task = json.dumps(_task(name, rows), indent=2)
        (folder / f"{name}.yaml").write_text(task + "\n", encoding="utf-8")
    return list(TASKS)


def _task(name: str, rows: Path) -> dict[str, Any]:
    return {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(rows)}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_target": "answer",
        "doc_to_choice": "choices",
        "target_delimiter": "",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        "metadata": {"version": 1},
    }
