"""A run's state on disk and back: bit for bit, without pickle, old or new."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from yearling.core.errors import CheckpointError
from yearling.training import checkpoint, durable

DTYPES = (
    *("float32", "float64", "float16", "bfloat16", "float8_e4m3fn", "complex64"),
    *("int8", "int16", "int32", "int64", "uint8", "bool"),
)


def assert_same(one: Any, other: Any, path: str = "state") -> None:
    """Equal in type, order and bits; a NaN equals itself."""
    if isinstance(one, torch.Tensor):
        assert (one.dtype, one.shape) == (other.dtype, other.shape), path
        bits = [t.contiguous().reshape(-1).view(torch.uint8) for t in (one, other)]
        assert torch.equal(*bits), path
    elif isinstance(one, dict):
        assert list(one) == list(other), path
        for key in one:
            assert_same(one[key], other[key], f"{path}.{key}")
    elif isinstance(one, list | tuple):
        assert (type(one), len(one)) == (type(other), len(other)), path
        for number, pair in enumerate(zip(one, other, strict=True)):
            assert_same(*pair, f"{path}.{number}")
    else:
        assert repr(one) == repr(other), path


def _trained() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(1)
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 1))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(2, 4)).sum().backward()
    optimizer.step()
    return model, optimizer


def _everything() -> dict[str, Any]:
    model, optimizer = _trained()
    table = torch.randn(4, 8)
    return {
        "module": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "types": {name: torch.arange(6).to(getattr(torch, name)) for name in DTYPES},
        "shared": [table, table, table[1:], table.T],
        "one": torch.tensor(float("nan")),
        "none": torch.empty(0, 3),
        "paths": {"a": {"b.c": table}, "a.b": {"c": table + 1}},
        "plain": (1, 2.5, None, True, "é\u2028", 2**200, float("nan"), float("-inf"), -0.0),
        "keys": {0: {"x": table}, "$tensor": 1, (1, 2): 3},
        "bytes": b"\x00\xff",
        "random": {"rank_0": {"torch": torch.get_rng_state()}},
    }


def test_state_comes_back_bit_for_bit(tmp_path: Path) -> None:
    state = _everything()
    path = checkpoint.save(tmp_path, 7, state)
    assert checkpoint.find_last(tmp_path) == path
    found = checkpoint.load(path)
    assert_same({name: found[name] for name in state}, state)


def test_loaded_tensors_are_new_ones(tmp_path: Path) -> None:
    state = {"weights": torch.ones(3)}
    loaded = checkpoint.load(checkpoint.save(tmp_path, 1, state), state)
    state["weights"].zero_()
    assert loaded["weights"].tolist() == [1, 1, 1]


def test_nothing_in_a_checkpoint_is_pickled(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, 1, _everything())
    endings = {file.suffix for file in path.rglob("*") if file.is_file()}
    assert endings == {".json", ".safetensors"}


class _Canary:
    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return (os.mkdir, (str(self.place),))


@pytest.mark.parametrize("number", range(3))
def test_pickle_in_the_place_of_any_file_is_not_run(number: int, tmp_path: Path) -> None:
    import pickle

    canary = pickle.dumps(_Canary(tmp_path / "sprung"))

    def poison(part: Path) -> None:
        source = checkpoint.save(tmp_path / "clean", 1, {"weights": torch.ones(3)})
        files = sorted(file for file in source.rglob("*") if file.is_file())
        for place, file in enumerate(files):
            target = part / file.relative_to(source)
            target.parent.mkdir(exist_ok=True)
            if file.name != durable.MANIFEST:
                target.write_bytes(canary if place == number else file.read_bytes())
        (part / ".metadata").write_bytes(canary)

    path = durable.write_folder(tmp_path / "bad", 1, poison)
    if number == 0:  # the manifest itself
        (path / durable.MANIFEST).write_bytes(canary)
        with pytest.raises(CheckpointError):
            checkpoint.load(path)
    elif number == 1:
        with pytest.raises(CheckpointError, match=r"state\.json"):
            checkpoint.load(path)
    else:
        with pytest.raises(CheckpointError, match="tensors"):
            checkpoint.load(path)
    assert not (tmp_path / "sprung").exists()


def test_value_that_cannot_be_kept_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"state source\.1\.seen is a set"):
        checkpoint.save(tmp_path, 1, {"source": [0, {"seen": {1}}]})
    assert checkpoint.find_last(tmp_path) is None


def test_full_disk_while_tensors_are_written_keeps_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = checkpoint.save(tmp_path, 5, {"weights": torch.ones(8)})

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(CheckpointError, match="No space left on device"):
            checkpoint.save(tmp_path, 10, {"weights": torch.zeros(8)})
    assert checkpoint.recover(tmp_path) == old
    assert checkpoint.load(old)["weights"].tolist() == [1] * 8


def test_large_state_is_divided_into_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "_BUCKET_BYTES", 1000)
    state = {f"layer {number}": torch.full((100,), float(number)) for number in range(9)}
    path = checkpoint.save(tmp_path, 1, state)
    assert len(list(path.rglob("*.safetensors"))) == 5
    assert_same(checkpoint.load(path), state)


def test_best_is_kept_and_old_ones_go(tmp_path: Path) -> None:
    first = checkpoint.save(tmp_path, 1, {"step": 1}, keep=1)
    checkpoint.point_best(tmp_path, first)
    for step in (2, 3):
        checkpoint.save(tmp_path, step, {"step": step}, keep=1)
    assert [durable.step_of(path) for path in durable.list_folders(tmp_path)] == [3, 1]
    assert checkpoint.load(tmp_path / "best") == {"step": 1}
