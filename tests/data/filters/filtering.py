"""Running one filter over texts."""

from yearling.data.examples import Document, Example
from yearling.data.filters import Rejection, filters
from yearling.data.rows import RowId

__all__ = ["judged", "taken_out"]


def judged(
    name: str, examples: list[Example] | list[str], **options: object
) -> list[Rejection | None]:
    """What a filter says of each example; a string is a document."""
    kind = filters.get(name)
    judge = kind.build(kind.config.model_validate(options))
    made = [Document(one) if isinstance(one, str) else one for one in examples]
    return [judge(RowId("a.jsonl", number), one) for number, one in enumerate(made, start=1)]


def taken_out(name: str, examples: list[Example] | list[str], **options: object) -> list[int]:
    """Numbers of the rows that go, from 1."""
    said = judged(name, examples, **options)
    return [number for number, one in enumerate(said, start=1) if one is not None]
