import pytest

from yearling.core.environment import VARIABLES, child_environment, read_variable


def test_read_variable_gives_its_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("YEARLING_HOME", "/data")
    assert read_variable("YEARLING_HOME") == "/data"


@pytest.mark.parametrize("value", [None, ""])
def test_read_variable_takes_empty_for_not_set(
    monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    if value is None:
        monkeypatch.delenv("YEARLING_HOME", raising=False)
    else:
        monkeypatch.setenv("YEARLING_HOME", value)
    assert read_variable("YEARLING_HOME") is None


def test_read_variable_refuses_names_outside_the_table() -> None:
    with pytest.raises(KeyError, match="YEARLING_HOMES is not in VARIABLES"):
        read_variable("YEARLING_HOMES")


def test_variables_each_have_a_sentence() -> None:
    assert all(meaning.endswith(".") for meaning in VARIABLES.values())


def test_child_environment_changes_only_what_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNRELATED", "kept")
    child = child_environment(YEARLING_HOME="/other")
    assert (child["UNRELATED"], child["YEARLING_HOME"]) == ("kept", "/other")
