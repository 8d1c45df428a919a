"""The catalogue: every file of every model is made by its wheels, and nothing else is taken."""

import re
from pathlib import PurePosixPath

import pytest

from yearling.models.catalogue import CATALOGUE, WheelModel


@pytest.mark.parametrize("model", CATALOGUE.values(), ids=list(CATALOGUE))
def test_entry_is_consistent(model: WheelModel) -> None:
    made = {name for wheel in model.wheels for name in wheel.members.values()}
    assert made == {file.name for file in model.files}
    assert len({file.name for file in model.files}) == len(model.files)
    for file in model.files:
        path = PurePosixPath(file.name)
        assert not path.is_absolute()
        assert ".." not in path.parts
    pinned = [(wheel.sha256, wheel.size_bytes) for wheel in model.wheels]
    pinned += [(file.sha256, file.size_bytes) for file in model.files]
    for sha256, size in pinned:
        assert re.fullmatch("[0-9a-f]{64}", sha256)
        assert size > 0
    assert all(re.fullmatch(r"[a-z0-9-]+==[0-9.]+", w.requirement) for w in model.wheels)


def test_kind_of_an_entry_is_told_by_its_files() -> None:
    assert CATALOGUE["gemma3-270m"].gguf == "gemma-3-270m-q4_k_m.gguf"
    assert CATALOGUE["minilm"].gguf == ""


def test_only_gemma_comes_under_terms() -> None:
    assert [name for name, model in CATALOGUE.items() if model.terms] == ["gemma3-270m"]
