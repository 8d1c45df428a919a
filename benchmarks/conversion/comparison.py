"""Answers before and after, token by token, and the report on them."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from yearling.models.conversion_check import FormatChange

__all__ = ["Answers", "Comparison", "Difference", "Report", "compare_answers"]

Answers = Sequence[Sequence[int]]
"""Token ids of one answer per prompt."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Where two answers to one prompt part.

    Attributes:
        prompt: Number of the prompt, from 0.
        position: Number of the answer's token, from 0.
        before: Id of the token there with the original file.
        after: Id with what was written.
    """

    prompt: int
    position: int
    before: int
    after: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """One engine's answers with the original and with one thing that was written.

    Attributes:
        engine: Its name.
        target: What was written: `folder` or `GGUF`.
        num_prompts: Prompts answered twice.
        num_same: Those with the same tokens both times.
        first: The first difference of the first prompt that differs.
    """

    engine: str
    target: str
    num_prompts: int
    num_same: int
    first: Difference | None

    @property
    def has_passed(self) -> bool:
        """Whether every answer is the same."""
        return self.num_same == self.num_prompts

    def __str__(self) -> str:
        """One line, with its verdict."""
        verdict = "ok   " if self.has_passed else "WRONG"
        line = (
            f"{verdict} {self.engine + ', ' + self.target:<24} {self.num_same} of "
            f"{self.num_prompts} prompts answered the same"
        )
        if (first := self.first) is None:
            return line
        return (
            f"{line}; first difference: prompt {first.prompt}, token {first.position}: "
            f"{first.before} before, {first.after} after"
        )


@dataclass(frozen=True, slots=True)
class Report:
    """What a run found.

    Attributes:
        model: Name of the original file.
        changes: Weights by their formats before and after, in the `folder` and in the `GGUF`.
        comparisons: Per engine and what it read.
        new_tokens: Tokens of every answer.
        prompt_tokens: Shortest and longest prompt.
        descriptions: Configuration of each engine.
        seconds: All of it together.
    """

    model: str
    changes: dict[str, tuple[FormatChange, ...]]
    comparisons: Sequence[Comparison]
    new_tokens: int
    prompt_tokens: tuple[int, int]
    descriptions: Sequence[str]
    seconds: float

    @property
    def has_passed(self) -> bool:
        """Whether no number, no format of the file and no answer changed."""
        changes = [change for part in self.changes.values() for change in part]
        return (
            all(change.changed_values == 0 for change in changes)
            and all(change.changed_codes == 0 for change in self.changes["GGUF"])
            and all(part.has_passed for part in self.comparisons)
        )

    def as_json(self) -> dict[str, Any]:
        """Everything for scripts."""
        return {
            **asdict(self),
            "comparisons": [
                asdict(part) | {"has_passed": part.has_passed} for part in self.comparisons
            ],
            "has_passed": self.has_passed,
        }

    def as_text(self) -> str:
        """Everything for people."""
        lines = [f"{self.model} to a folder, and back to a GGUF file of its own formats"]
        for target, changes in self.changes.items():
            lines += [f"  {target:<6} {change}" for change in changes]
        shortest, longest = self.prompt_tokens
        lines += [
            f"Prompts of {shortest} to {longest} tokens, {self.new_tokens} greedy tokens each, "
            "original against written",
            *(f"  {comparison}" for comparison in self.comparisons),
            f"{'ok' if self.has_passed else 'FAILED'}, after {self.seconds:.0f} s",
            *self.descriptions,
        ]
        return "\n".join(lines)


def compare_answers(engine: str, target: str, before: Answers, after: Answers) -> Comparison:
    """Count the prompts whose answers have the same tokens.

    Raises:
        ValueError: there are not as many answers, or an answer is longer than its counterpart.

    >>> print(compare_answers("ours", "GGUF", [[1, 2], [3, 4]], [[1, 2], [3, 5]]))
    WRONG ours, GGUF               1 of 2 prompts answered the same; first difference: prompt 1, \
token 1: 4 before, 5 after
    """
    differences = [
        _difference(prompt, one, other)
        for prompt, (one, other) in enumerate(zip(before, after, strict=True))
    ]
    found = [difference for difference in differences if difference is not None]
    return Comparison(
        engine, target, len(before), len(before) - len(found), found[0] if found else None
    )


def _difference(prompt: int, before: Sequence[int], after: Sequence[int]) -> Difference | None:
    for position, (one, other) in enumerate(zip(before, after, strict=True)):
        if one != other:
            return Difference(prompt, position, one, other)
    return None
