"""The `data` section of a configuration: which rows, read how, filtered by what."""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from yearling.core.config import Config
from yearling.core.section import Choice, NamedEntry
from yearling.data.filters import filters
from yearling.data.schema import SchemaName

__all__ = ["DataConfig"]

_FilterStep = Annotated[NamedEntry, Choice(filters)]


class DataConfig(Config):
    """Rows for training and validation, and what may become of them."""

    paths: tuple[str, ...] = Field(
        min_length=1,
        description="Files, folders, globs, or `hf:ORG/NAME:SPLIT`; a `#N` behind one takes a "
        "sample of N rows.",
    )
    row_schema: SchemaName = Field(
        default="auto", description="What the columns mean; `auto` recognises it row by row."
    )
    validation_fraction: float = Field(
        default=0.0, ge=0.0, le=0.5, description="Share of the rows kept back for validation."
    )
    validation_paths: tuple[str, ...] = Field(
        default=(), description="Rows for validation from elsewhere, in the form of `paths`."
    )
    max_drop: float = Field(
        default=0.01, ge=0.0, le=1.0, description="Largest share of rows that may be lost."
    )
    max_length: int | None = Field(
        default=None, ge=2, description="Longest row in tokens; None for the model's context."
    )
    overlong: Literal["drop", "truncate"] = Field(
        default="drop",
        description="What becomes of longer rows; `truncate` cuts the end off where labels "
        "remain, and drops the row where none do.",
    )
    filters: tuple[_FilterStep, ...] = Field(
        default=(),
        description="What takes rows out on purpose, in this order; `- name: length` with its "
        "options beside it.",
    )
    seed: int = Field(default=0, ge=0, description="Of sampling, splitting and shuffling.")
    is_streaming: bool = Field(
        default=False,
        description="Whether rows are read again in every epoch instead of being held in memory.",
    )

    @field_validator("paths", "validation_paths", mode="before")
    @classmethod
    def _one_path_is_a_list(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one_source_of_validation(self) -> "DataConfig":
        if self.validation_paths and self.validation_fraction:
            raise ValueError(
                f"validation_fraction={self.validation_fraction} and validation_paths are both "
                "set: keep one"
            )
        return self
