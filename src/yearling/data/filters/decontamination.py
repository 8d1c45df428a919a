"""Rows that hold a passage of an evaluation set, which would make its scores a test of memory.

A passage is a run of words, 13 by default, without case and punctuation. Texts of an evaluation
set with fewer words are looked for whole, down to `min_words`; shorter ones, such as bare answers,
would be found everywhere.

Source: Brown et al. 2020, arXiv:2005.14165, appendix C (13-grams).
"""

from collections.abc import Iterator, Mapping

from pydantic import Field, model_validator

from yearling.core.config import Config
from yearling.core.errors import DataError
from yearling.data.content import texts_of, words_of
from yearling.data.examples import Example
from yearling.data.filters import Filter, FilterKind, Rejection, filters
from yearling.data.rows import BadRow, Row, RowId
from yearling.data.schema import read_example
from yearling.data.sources import find_sources

__all__ = ["DecontaminationConfig", "build", "kind"]


class DecontaminationConfig(Config):
    """What must not be trained on."""

    paths: tuple[str, ...] = Field(
        default=(), description="Evaluation sets, in the form of `data.paths`."
    )
    texts: tuple[str, ...] = Field(default=(), description="Texts to keep out, written here.")
    ngram: int = Field(default=13, ge=2, description="Words in a row that are too many in common.")
    min_words: int = Field(
        default=6, ge=1, description="Evaluation texts with fewer words are not looked for."
    )

    @model_validator(mode="after")
    def _something_to_look_for(self) -> "DecontaminationConfig":
        if not self.paths and not self.texts:
            raise ValueError("decontamination needs paths or texts of an evaluation set")
        return self


def build(config: DecontaminationConfig) -> Filter:
    """Make the filter from all passages of the evaluation sets.

    Raises:
        DataError: an evaluation set cannot be read, or has a row that cannot.
    """
    passages: dict[int, str] = {}
    sizes: set[int] = set()
    for where, text in _evaluation_texts(config):
        words = words_of(text)
        size = min(len(words), config.ngram)
        if size >= min(config.min_words, config.ngram):
            sizes.add(size)
            for passage in _runs(words, size):
                passages.setdefault(hash(passage), where)

    def judge(row: RowId, example: Example) -> Rejection | None:
        for text in texts_of(example):
            words = words_of(text)
            for size in sizes:
                for passage in _runs(words, size):
                    if (where := passages.get(hash(passage))) is not None:
                        shown = f"{where}: {' '.join(passage)}"
                        return Rejection("it holds a passage of an evaluation set", shown)
        return None

    return judge


def _runs(words: list[str], size: int) -> Iterator[tuple[str, ...]]:
    return (tuple(words[start : start + size]) for start in range(len(words) - size + 1))


def _evaluation_texts(config: DecontaminationConfig) -> Iterator[tuple[str, str]]:
    """Give each text with the row it stands in."""
    for number, text in enumerate(config.texts, start=1):
        yield f"texts:{number}", text
    for path in config.paths:
        for row in find_sources(path).read():
            if isinstance(row, BadRow):
                raise DataError(
                    f"{row.id} of an evaluation set cannot be read, because {row.reason}. "
                    f"{row.detail}\n  Its passages could not be kept out: mend it first."
                )
            for text in _texts_of_row(row):
                yield str(row.id), text


def _texts_of_row(row: Row) -> Iterator[str]:
    """Give the texts of a row by its schema, or else all there are: no set goes unread."""
    try:
        yield from texts_of(read_example(row.values))
    except DataError:
        yield from _strings_in(row.values)


def _strings_in(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _strings_in(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _strings_in(inner)


kind = filters.register(
    FilterKind(
        summary="takes out rows that hold a passage of an evaluation set",
        config=DecontaminationConfig,
        build=build,
        source="Brown et al. 2020, arXiv:2005.14165, appendix C",
    ),
    __name__,
)
