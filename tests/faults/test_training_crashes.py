"""Training that is killed, runs out of disk, or loses a process: nothing is lost, nothing mixed."""

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

import pytest

from tests.faults.conftest import Promise
from tests.faults.durable_probe import CONTENT, REFUSED, fill
from tests.faults.system_calls import crash_states, own_calls, record, trace
from tests.server.live import ROOT
from yearling.training import durable
from yearling.training.parallel import torchrun_command

pytestmark = pytest.mark.faults

_FULL_DISK = ("openat", "write", "mkdir", "symlink", "rename")
KILLED = (-9, 137)


def _old(root: Path) -> Path:
    durable.write_folder(root, 1, lambda part: fill(part, b"old"))
    return root


def _content(folder: Path) -> bytes:
    """The mark of the checkpoint that all files of a folder have."""
    marks = set()
    for name, content in CONTENT.items():
        found = (folder / name).read_bytes()
        assert found[3:] == content, f"{folder / name} is not what was written"
        marks.add(found[:3])
    assert len(marks) == 1, f"{folder} is a mix of {marks}"
    return marks.pop()


def _assert_old_or_new(root: Path) -> bytes:
    """A reader finds one checkpoint or the other, before and after clearing up."""
    found = durable.find_last(root)
    assert found is not None
    mark = _content(found)
    assert mark == {1: b"old", 2: b"new"}[durable.step_of(found)]
    assert durable.recover(root) == found
    assert durable.pointed(root, "last") == found
    assert [path.name for path in root.iterdir() if ".part-" in path.name] == []
    return mark


def _faults(call: str) -> Sequence[str]:
    faults = ["signal=SIGKILL", "error=EIO"]
    return [*faults, "error=ENOSPC"] if call in _FULL_DISK else faults


# Reads and openings are the most and the dullest: the short form takes every fifth.
@pytest.mark.timeout(600)
@pytest.mark.parametrize("stride", [5, pytest.param(1, marks=pytest.mark.slow)])
def test_crash_or_error_at_any_system_call_leaves_old_or_new(
    stride: int, tmp_path: Path, promise: Promise
) -> None:
    calls = own_calls(_old(tmp_path / "checkpoints-0000"), tmp_path / "log")
    assert {"openat", "write", "fsync", "mkdir", "rename", "symlink"} <= set(calls)
    numbers = count(1)
    jobs = [
        (tmp_path / f"checkpoints-{next(numbers):04}", call, fault, number)
        for call, own in calls.items()
        for fault in _faults(call)
        for number in own[:: stride if call in ("openat", "read") else 1]
    ]

    def inject(job: tuple[Path, str, str, int]) -> tuple[str, int, bytes]:
        root, call, fault, number = job
        status = trace(
            _old(root), ["-e", f"trace={call}", "-e", f"inject={call}:{fault}:when={number}"]
        )
        mark = _assert_old_or_new(root)
        shutil.rmtree(root)
        if status == 0:
            assert mark == b"new", f"{job} was told that step 2 is saved"
        return fault, status, mark

    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(inject, jobs))
    killed = Counter(mark for _, status, mark in results if status in KILLED)
    refused = Counter(fault for fault, status, _ in results if status == REFUSED)
    assert set(killed) == {b"old", b"new"}
    assert set(refused) == {"error=EIO", "error=ENOSPC"}
    assert sum(killed.values()) == sum(fault == "signal=SIGKILL" for fault, _, _ in results)
    promise(
        f"{len(results)} faults injected into checkpoint writing ({sum(killed.values())} kills, "
        f"{sum(refused.values())} told errors): old or new every time, nothing lost",
    )


def test_power_cut_with_unsynced_writes_lost_leaves_old_or_new(
    tmp_path: Path, promise: Promise
) -> None:
    recording = record(_old(tmp_path / "recorded"), tmp_path / "log")
    assert len(recording.changes) > 15
    states = list(crash_states(recording, 400, seed=1))
    committed = _commit_moment(recording.changes, recording.synced, recording.start)
    marks: Counter[bytes] = Counter()
    for number, (moment, lost) in enumerate(states):
        root = tmp_path / f"state-{number}"
        recording.write(root, moment, lost)
        mark = _assert_old_or_new(root)
        if moment >= committed:
            assert mark == b"new", f"lost after its fsync: {moment}, {sorted(lost)}"
        marks[mark] += 1
        shutil.rmtree(root)
    assert set(marks) == {b"old", b"new"}
    promise(
        f"{len(states)} disks as a power cut may leave them: {marks[b'old']} old, "
        f"{marks[b'new']} new, none mixed or unreadable",
    )


def test_power_cut_test_finds_a_writer_that_forgets_fsync(tmp_path: Path) -> None:
    recording = record(_old(tmp_path / "recorded"), tmp_path / "log")
    recording.synced = []
    marks = set()
    for number, (moment, lost) in enumerate(crash_states(recording, 200, seed=1)):
        root = tmp_path / f"state-{number}"
        recording.write(root, moment, lost)
        try:
            marks.add(_assert_old_or_new(root))
        except (AssertionError, durable.CheckpointError):
            marks.add(b"bad")
    assert b"bad" in marks


@pytest.mark.timeout(300)
@pytest.mark.parametrize("kills", [10, pytest.param(40, marks=pytest.mark.slow)])
def test_training_killed_and_resumed_ends_with_the_same_bits(
    kills: int, tmp_path: Path, promise: Promise
) -> None:
    ended = _run([sys.executable, "-m", "tests.faults.training_worker", "alone"], tmp_path, [kills])
    told = json.loads(ended.stdout.splitlines()[-1])
    assert [status for _, status, _ in told["kills"]] == [-9] * kills
    inside = [place for place, _, _ in told["kills"] if place]
    assert inside == ["state.json", "manifest.json", "pointer"]
    steps = [step for _, _, step in told["kills"]]
    assert steps == sorted(steps)
    assert len(set(steps)) > 2, "kills came at different places of the run"
    assert {"modules", "optimizers", "random", "source", "log"} <= set(told["whole"])
    assert told["killed"] == told["whole"]
    promise(
        f"{kills} SIGKILLs, {len(inside)} inside a save: weights, optimizer, random numbers, place "
        "in the data and loss log have the bits of the run in peace",
    )


@pytest.mark.timeout(300)
def test_training_survives_a_lost_process(tmp_path: Path, promise: Promise) -> None:
    digests = {}
    for name, kills in (("whole", []), ("killed", [3, 7, 11])):
        folder = tmp_path / name
        folder.mkdir()
        command, changes = torchrun_command(
            ["-m", "tests.faults.training_worker", "rank"], 2, tmp_path / f"{name}-meeting"
        )
        _run(command, folder, kills, **changes)
        assert sorted(path.name for path in folder.glob("killed-at-*")) == sorted(
            f"killed-at-{step}" for step in kills
        )
        addresses = json.loads((folder / "listening.json").read_text())
        assert addresses
        assert set(addresses) <= {"127.0.0.1", "::1"}
        digests[name] = _digest(folder)
    assert digests["killed"] == digests["whole"]
    promise(
        "process 1 of 2 SIGKILLed at steps 3, 7 and 11: torchrun started again, the end has the "
        "same bits; every port was on loopback",
    )


def test_job_that_meets_nan_fails_and_leaves_the_last_good_checkpoint(
    tmp_path: Path, promise: Promise
) -> None:
    command = [sys.executable, "-m", "tests.faults.training_worker", "spoiled"]
    ended = _run(command, tmp_path, [], status=1)
    assert "NonFiniteError: step 7: loss is nan" in ended.stderr
    assert "rows: row " in ended.stderr
    root = tmp_path / "checkpoints"
    last = durable.pointed(root, "last")
    assert last is not None
    assert durable.step_of(last) == 6
    assert durable.find_last(root) == last
    log = [json.loads(line) for line in (tmp_path / "losses.jsonl").read_text().splitlines()]
    assert [entry[0] for entry in log] == [1, 2, 3, 4, 5, 6, 7]
    assert repr(log[-1][1]) == "nan"
    promise("a NaN in step 7: the job failed, named its rows, and `last` is step 6")


def _digest(folder: Path) -> dict[str, str]:
    from tests.faults.training_worker import digest

    return digest(folder)


def _run(
    command: Sequence[str], folder: Path, words: Sequence[object], status: int = 0, **changes: str
) -> "subprocess.CompletedProcess[str]":
    ended = subprocess.run(
        [*command, str(folder), *map(str, words)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=240,
        env={**os.environ, "PYTHONPATH": f"{ROOT}/src:{ROOT}", "OMP_NUM_THREADS": "1", **changes},
    )
    assert ended.returncode == status, ended.stderr[-4000:]
    return ended


def _commit_moment(
    changes: Sequence[object], synced: Sequence[tuple[int, object]], root: object
) -> int:
    """After how many changes the renamed checkpoint is certain: the root's next fsync."""
    renamed = next(
        number
        for number, change in enumerate(changes, start=1)
        if any(name == "step-00000002" for _, name, _ in change.names)  # type: ignore[attr-defined]
    )
    return next(when for when, node in synced if node is root and when >= renamed)
