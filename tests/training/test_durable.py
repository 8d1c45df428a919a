"""Checkpoint folders: whole or not there, checked when read, and let go in order."""

import errno
import logging
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from yearling.core.errors import CheckpointError
from yearling.training import durable

ROOT = Path(__file__).parents[2]


def _fill(part: Path) -> None:
    (part / "tensors").mkdir()
    durable.write_file(part / "state.json", b'{"step": 1}')
    durable.write_file(part / "tensors" / "first.bin", bytes(range(200)))
    durable.write_file(part / "tensors" / "second.bin", bytes(range(100, 250)))


def _write(root: Path, *steps: int) -> list[Path]:
    return [durable.write_folder(root, step, _fill) for step in steps]


def _names(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir())


def test_written_folder_is_the_last_one(tmp_path: Path) -> None:
    root = tmp_path / "run" / "checkpoints"
    first, second = _write(root, 5, 10)
    assert durable.find_last(root) == second == durable.pointed(root, "last")
    assert (root / "last").readlink() == Path("step-00000010")
    assert set(durable.read_folder(first).sizes) == {
        "state.json",
        "tensors/first.bin",
        "tensors/second.bin",
    }
    assert _names(root) == ["last", "step-00000005", "step-00000010"]


def test_run_without_checkpoints_has_no_last(tmp_path: Path) -> None:
    assert durable.find_last(tmp_path / "nothing") is None
    assert durable.recover(tmp_path / "nothing") is None


def _damages(folder: Path) -> dict[str, object]:
    first, second = folder / "tensors" / "first.bin", folder / "tensors" / "second.bin"

    def flip(path: Path, at: int) -> None:
        content = bytearray(path.read_bytes())
        content[at] ^= 1
        path.write_bytes(content)

    def swap() -> None:
        one, other = first.read_bytes(), second.read_bytes()
        first.write_bytes(other)
        second.write_bytes(one)

    return {
        "flipped": lambda: flip(first, 7),
        "flipped state": lambda: flip(folder / "state.json", 9),
        "flipped manifest": lambda: flip(folder / "manifest.json", 60),
        "empty": lambda: first.write_bytes(b""),
        "half": lambda: first.write_bytes(first.read_bytes()[:100]),
        "one short": lambda: second.write_bytes(second.read_bytes()[:-1]),
        "empty manifest": lambda: (folder / "manifest.json").write_bytes(b""),
        "deep manifest": lambda: (folder / "manifest.json").write_bytes(b"[" * 100_000),
        "list as manifest": lambda: (folder / "manifest.json").write_bytes(b"[1]"),
        "dropped": first.unlink,
        "dropped manifest": (folder / "manifest.json").unlink,
        "added": lambda: (folder / "tensors" / "third.bin").write_bytes(b"more"),
        "swapped": swap,
        "linked": lambda: (first.unlink(), first.symlink_to(second)),
    }


@pytest.mark.parametrize("damage", sorted(_damages(Path())))
def test_damaged_folder_is_refused_by_name_and_the_one_before_is_found(
    damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before, newest = _write(tmp_path, 5, 10)
    _damages(newest)[damage]()  # type: ignore[operator]
    with pytest.raises(CheckpointError, match=r"step-00000010/.* damaged"):
        durable.read_folder(newest)
    with pytest.raises(CheckpointError, match="step-00000010"):
        durable.find_last(tmp_path, allows_previous=False)
    with caplog.at_level(logging.WARNING, "yearling.training.durable"):
        assert durable.find_last(tmp_path) == before
    assert "Passing over a damaged checkpoint" in caplog.text
    assert durable.recover(tmp_path) == before == durable.pointed(tmp_path, "last")


def test_all_damaged_is_an_error_and_not_a_fresh_start(tmp_path: Path) -> None:
    for folder in _write(tmp_path, 5, 10):
        (folder / "state.json").write_bytes(b"")
    with pytest.raises(CheckpointError, match="none of the 2 checkpoints"):
        durable.find_last(tmp_path)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("number", range(9))
def test_failing_disk_names_the_file_and_keeps_the_old_checkpoint(
    code: int, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (old,) = _write(tmp_path, 5)
    real, calls = os.fsync, iter(range(100))

    def failing(descriptor: int) -> None:
        if next(calls) == number:
            raise OSError(code, os.strerror(code))
        real(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failing)
        with pytest.raises(CheckpointError, match=os.strerror(code)) as refusal:
            durable.write_folder(tmp_path, 10, _fill)
    assert str(tmp_path) in str(refusal.value)
    assert [name for name in _names(tmp_path) if ".part-" in name] == []
    assert durable.find_last(tmp_path) in (old, tmp_path / "step-00000010")


def test_interrupted_write_leaves_no_part(tmp_path: Path) -> None:
    def interrupted(part: Path) -> None:
        _fill(part)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        durable.write_folder(tmp_path, 5, interrupted)
    assert _names(tmp_path) == []


def test_recover_removes_parts_and_moves_a_pointer_that_lags(tmp_path: Path) -> None:
    first, second = _write(tmp_path, 5, 10)
    durable.point(tmp_path, "last", first)
    _fill(durable.begin_part(tmp_path, 15))
    (tmp_path / (".last.part-" + "0" * 32)).symlink_to("step-00000005")
    (tmp_path / ".kept").write_text("not ours")
    assert durable.recover(tmp_path) == second == durable.pointed(tmp_path, "last")
    assert _names(tmp_path) == [".kept", "last", "step-00000005", "step-00000010"]


def test_retain_keeps_the_newest_and_the_best(tmp_path: Path) -> None:
    first, *_ = _write(tmp_path, 5, 10, 15, 20)
    durable.point(tmp_path, "best", first)
    durable.retain(tmp_path, keep=2)
    assert _names(tmp_path) == ["best", "last", "step-00000005", "step-00000015", "step-00000020"]
    with pytest.raises(ValueError, match="keep=0"):
        durable.retain(tmp_path, keep=0)


def test_retain_never_removes_what_was_just_written(tmp_path: Path) -> None:
    (newer,) = _write(tmp_path, 50)
    (newer / "state.json").write_bytes(b"")
    (written,) = _write(tmp_path, 10)
    durable.retain(tmp_path, keep=1)
    assert durable.find_last(tmp_path) == written


def test_same_step_again_stands_beside_the_first(tmp_path: Path) -> None:
    first, again = _write(tmp_path, 5, 5)
    assert (first.name, again.name) == ("step-00000005", "step-00000005-1")
    assert durable.find_last(tmp_path) == again
    assert durable.step_of(again) == 5


def test_pointer_to_elsewhere_points_nowhere(tmp_path: Path) -> None:
    (tmp_path / "last").symlink_to("..")
    assert durable.pointed(tmp_path, "last") is None
    with pytest.raises(CheckpointError, match="not named like a checkpoint"):
        durable.step_of(tmp_path)


def test_importing_it_needs_neither_torch_nor_numpy() -> None:
    code = (
        "import sys, yearling.training.durable; "
        "assert not {'torch', 'numpy'} & set(sys.modules), 'heavy'"
    )
    start = time.process_time()
    subprocess.run(
        [sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": f"{ROOT}/src"}
    )
    assert time.process_time() - start < 1
