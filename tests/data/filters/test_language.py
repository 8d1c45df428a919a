import sys

import pytest
from pydantic import ValidationError

from tests.data.filters.filtering import judged, taken_out
from yearling.core.errors import ConfigError, UnsupportedError

pytest.importorskip("py3langid")
TEXTS = [
    "The committee met on Thursday to discuss the budget for the coming year.",
    "Der Ausschuss traf sich am Donnerstag, um über den Haushalt zu beraten.",
    "委员会星期四开会讨论了明年的预算，并决定在下个月再次召开会议。",
    "OK",
    "1 + 1 = 2",
]


def test_other_languages_go_and_short_texts_stay() -> None:
    assert taken_out("language", TEXTS, languages=["en"]) == [2, 3]
    assert taken_out("language", TEXTS, languages=["en", "zh"]) == [2]
    said = judged("language", TEXTS, languages=["en"])[1]
    assert said is not None
    assert said.detail.startswith("de, probability ")


def test_unknown_language_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"does not know xx; it knows .*zh"):
        judged("language", [], languages=["xx"])
    with pytest.raises(ValidationError, match="two small letters"):
        judged("language", [], languages=["English"])


def test_missing_py3langid_is_an_error_that_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "py3langid.langid", None)
    with pytest.raises(UnsupportedError, match=r"pip install yearling\[train\]"):
        judged("language", [], languages=["en"])
