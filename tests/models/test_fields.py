"""Accessors that check: what they refuse, and what they say."""

from collections.abc import Callable

import pytest

from yearling.core.errors import ModelFormatError
from yearling.models.fields import Fields

_FIELDS = Fields(
    {"text": "x", "true": True, "one": 1, "none": None, "nan": float("nan"), "ids": [1, 2, 1]},
    "m.json",
)


@pytest.mark.parametrize(
    ("take", "words"),
    [
        (lambda: _FIELDS.integer("gone"), r"m.json: gone is missing"),
        (lambda: _FIELDS.integer("none"), r"m.json: none is missing"),
        (lambda: _FIELDS.integer("true"), r"true=True must be an integer"),
        (lambda: _FIELDS.integer("one", minimum=2), r"one=1 must be from 2"),
        (lambda: _FIELDS.number("text"), r"text='x' must be a number"),
        (lambda: _FIELDS.number("nan"), r"nan=nan must be finite"),
        (lambda: _FIELDS.number("one", above=1), r"greater than 1"),
        (lambda: _FIELDS.flag("one"), r"one=1 must be true or false"),
        (lambda: _FIELDS.text("one"), r"one=1 must be a string"),
        (lambda: _FIELDS.inner("one"), r"one=1 must be a mapping"),
        (lambda: _FIELDS.token_ids("text", 9), r"must be a token id"),
        (lambda: _FIELDS.token_ids("ids", 2), r"below the vocabulary size of 2"),
        (lambda: Fields({"k": "y" * 999}, "m").integer("k"), r"k='y{79}… must be"),
        (lambda: Fields({"k": 10**400}, "m").number("k"), r"must be finite"),
    ],
)
def test_wrong_value_is_named(take: Callable[[], object], words: str) -> None:
    with pytest.raises(ModelFormatError, match=words):
        take()


def test_defaults_stand_in_for_absent_and_null() -> None:
    assert _FIELDS.integer("gone", 3) == _FIELDS.integer("none", 3) == 3
    assert _FIELDS.token_ids("gone", 9) == ()
    assert _FIELDS.inner("gone") is None


def test_repeated_ids_count_once() -> None:
    assert _FIELDS.token_ids("ids", 9) == (1, 2)


def test_unknown_keys_matter_only_when_set() -> None:
    Fields({"a": 1, "b": None, "c": False}, "m").refuse_unknown({"a"})
    with pytest.raises(ModelFormatError, match="d=0 is not known"):
        Fields({"d": 0}, "m").refuse_unknown({"a"})
