"""Rows in other languages than wanted, told by byte n-grams.

Short texts give too little to go by: rows with fewer letters than `min_characters` stay. Code and
formulas have no language; leave this filter off where rows consist of them.

Source: Lui and Baldwin 2012, "langid.py"; the model is py3langid's, 97 languages.
"""

from pydantic import Field, field_validator

from yearling.core.config import Config
from yearling.core.errors import ConfigError, UnsupportedError
from yearling.data.content import texts_of
from yearling.data.examples import Example
from yearling.data.filters import Filter, FilterKind, Rejection, filters
from yearling.data.rows import RowId

__all__ = ["LanguageConfig", "build", "kind"]

# More tells nothing new about the language and costs time.
_READ_CHARACTERS = 4_000


class LanguageConfig(Config):
    """Which languages stay."""

    languages: tuple[str, ...] = Field(
        min_length=1, description="ISO 639-1 codes of the languages that stay: en, zh."
    )
    min_probability: float = Field(
        default=0.5, ge=0.0, le=1.0, description="Least probability of these languages together."
    )
    min_characters: int = Field(
        default=20, ge=1, description="Rows with fewer letters are not judged."
    )

    @field_validator("languages")
    @classmethod
    def _codes(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        wrong = [code for code in value if len(code) != 2 or code != code.lower()]
        if wrong:
            raise ValueError(f"a language is two small letters, such as en or zh; not {wrong}")
        return value


def build(config: LanguageConfig) -> Filter:
    """Make the filter.

    Raises:
        ConfigError: the model does not know one of the languages.
        UnsupportedError: py3langid is not installed.
    """
    try:
        from py3langid.langid import (  # type: ignore[import-untyped]
            MODEL_FILE,
            LanguageIdentifier,
        )
    except ModuleNotFoundError:
        raise UnsupportedError(
            "the filter language needs py3langid: pip install yearling[train]"
        ) from None
    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    unknown = sorted(set(config.languages) - set(identifier.labels))
    if unknown:
        raise ConfigError(
            f"the filter language does not know {', '.join(unknown)}; it knows "
            f"{', '.join(sorted(identifier.labels))}."
        )

    def judge(row: RowId, example: Example) -> Rejection | None:
        text = "\n".join(texts_of(example))[:_READ_CHARACTERS]
        if sum(character.isalpha() for character in text) < config.min_characters:
            return None
        ranked = identifier.rank(text)
        wanted = sum(float(chance) for code, chance in ranked if code in config.languages)
        if wanted >= config.min_probability:
            return None
        likeliest, chance = ranked[0]
        return Rejection("it is in another language", f"{likeliest}, probability {chance:.2f}")

    return judge


kind = filters.register(
    FilterKind(
        summary="takes out rows in other languages than wanted",
        config=LanguageConfig,
        build=build,
        source='Lui and Baldwin 2012, "langid.py: An off-the-shelf language identification tool"',
    ),
    __name__,
)
