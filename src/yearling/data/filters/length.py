"""Rows too short or too long, in characters, words or turns.

Tokens are not counted here: `data.max_length` is in tokens, and knows the model's tokenizer.
"""

from pydantic import Field, model_validator

from yearling.core.config import Config
from yearling.data.content import num_turns, texts_of, words_of
from yearling.data.examples import Example
from yearling.data.filters import Filter, FilterKind, Rejection, filters
from yearling.data.rows import RowId

__all__ = ["LengthConfig", "build", "kind"]

_MEASURES = ("characters", "words", "turns")


class LengthConfig(Config):
    """Bounds of a row's length, all its texts together; None for no bound."""

    min_characters: int | None = Field(default=None, ge=1, description="Fewest characters.")
    max_characters: int | None = Field(default=None, ge=1, description="Most characters.")
    min_words: int | None = Field(
        default=None, ge=1, description="Fewest words; a Chinese character is one."
    )
    max_words: int | None = Field(
        default=None, ge=1, description="Most words; a Chinese character is one."
    )
    min_turns: int | None = Field(default=None, ge=1, description="Fewest messages.")
    max_turns: int | None = Field(default=None, ge=1, description="Most messages.")

    @model_validator(mode="after")
    def _bounds_leave_room(self) -> "LengthConfig":
        bounds = [(measure, *self.bounds(measure)) for measure in _MEASURES]
        if all(least is None and most is None for _, least, most in bounds):
            raise ValueError("length needs at least one bound, such as min_words: 3")
        for measure, least, most in bounds:
            if least is not None and most is not None and least > most:
                raise ValueError(f"min_{measure}={least} is above max_{measure}={most}")
        return self

    def bounds(self, measure: str) -> tuple[int | None, int | None]:
        """Give the least and the most of a measure: characters, words or turns."""
        return getattr(self, f"min_{measure}"), getattr(self, f"max_{measure}")


def build(config: LengthConfig) -> Filter:
    """Make the filter."""
    bounded = [measure for measure in _MEASURES if config.bounds(measure) != (None, None)]

    def judge(row: RowId, example: Example) -> Rejection | None:
        for measure in bounded:
            least, most = config.bounds(measure)
            length = _length(example, measure)
            if least is not None and length < least:
                return Rejection(f"it has fewer than {least} {measure}", str(length))
            if most is not None and length > most:
                return Rejection(f"it has more than {most} {measure}", str(length))
        return None

    return judge


def _length(example: Example, measure: str) -> int:
    if measure == "turns":
        return num_turns(example)
    if measure == "words":
        return sum(len(words_of(text)) for text in texts_of(example))
    return sum(len(text) for text in texts_of(example))


kind = filters.register(
    FilterKind(
        summary="takes out rows that are too short or too long",
        config=LengthConfig,
        build=build,
    ),
    __name__,
)
