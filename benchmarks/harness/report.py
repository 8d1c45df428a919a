"""What the harness chose in each way, as a table for people and as JSON for scripts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Report", "Scores"]

OWN, EXACT, SERVED = "hf", "yearling float32", "yearling"
_MOST_POINTS = 0.1
_LEAST_SAME = 0.97


@dataclass(frozen=True, slots=True)
class Scores:
    """Choices of one run by task, each with whether it was right."""

    choices: Mapping[str, Sequence[int]]
    is_right: Mapping[str, Sequence[bool]]
    seconds: float

    def accuracy(self, task: str) -> float:
        """Share of right choices."""
        return sum(self.is_right[task]) / len(self.is_right[task])


@dataclass(frozen=True, slots=True)
class Report:
    """What a run found.

    Attributes:
        scores: By `hf`, `yearling float32` and `yearling`, which has its default weights.
        versions: Of the harness and what it stands on.
    """

    model: str
    scores: Mapping[str, Scores]
    versions: str

    def points(self) -> dict[str, float]:
        """Percentage points of accuracy between float32 here and the harness's own model."""
        return {
            task: 100 * (self.scores[EXACT].accuracy(task) - self.scores[OWN].accuracy(task))
            for task in self.scores[OWN].choices
        }

    def same(self, name: str) -> float:
        """Share of questions in which a run chose as the harness's own model."""
        pairs = [
            (one, other)
            for task, choices in self.scores[OWN].choices.items()
            for one, other in zip(choices, self.scores[name].choices[task], strict=True)
        ]
        return sum(one == other for one, other in pairs) / len(pairs)

    @property
    def num_items(self) -> int:
        """Questions of all tasks."""
        return sum(map(len, self.scores[OWN].choices.values()))

    @property
    def has_passed(self) -> bool:
        """Whether scores in float32 are the same, and choices by default nearly so."""
        is_exact = all(abs(points) <= _MOST_POINTS for points in self.points().values())
        return is_exact and self.same(SERVED) >= _LEAST_SAME

    def as_json(self) -> dict[str, Any]:
        """Everything for scripts."""
        return {
            "model": self.model,
            "items": self.num_items,
            "accuracy": {
                name: {task: scores.accuracy(task) for task in scores.choices}
                for name, scores in self.scores.items()
            },
            "seconds": {name: scores.seconds for name, scores in self.scores.items()},
            "points": self.points(),
            "same_choice": {name: self.same(name) for name in (EXACT, SERVED)},
            "versions": self.versions,
            "has_passed": self.has_passed,
        }

    def as_text(self) -> str:
        """Everything for people."""
        tasks = list(self.scores[OWN].choices)
        width = max(map(len, tasks))
        lines = [f"{self.model}: {self.num_items} questions in {len(tasks)} tasks, accuracy"]
        lines.append(f"  {'':<{width}} " + " ".join(f"{name:>16}" for name in self.scores))
        for task in tasks:
            shares = (f"{scores.accuracy(task):16.2%}" for scores in self.scores.values())
            lines.append(f"  {task:<{width}} " + " ".join(shares))
        took = (f"{scores.seconds:14.0f} s" for scores in self.scores.values())
        lines.append(f"  {'':<{width}} " + " ".join(took))
        worst = max(map(abs, self.points().values()))
        lines.append(f"{EXACT} against {OWN}: {worst:.2f} points at most (at most {_MOST_POINTS})")
        for name in (EXACT, SERVED):
            bound = f" (at least {_LEAST_SAME:.0%})" if name == SERVED else ""
            lines.append(f"the same choice as {OWN}, {name}: {self.same(name):.2%}{bound}")
        lines.append("ok" if self.has_passed else "FAILED")
        return "\n".join([*lines, self.versions])
