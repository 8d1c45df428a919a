"""Several processes learn what one learns, and read each other's checkpoints."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.models import torch_variants as variants
from tests.training.parallel_worker import Rows, tiny_decoder
from yearling.core.errors import ConfigError, TrainingError, UnsupportedError
from yearling.models.spec import Alibi, Plain
from yearling.models.torch_decoder import TorchDecoder
from yearling.training.parallel import ParallelConfig, ShareOfSource, torchrun_command
from yearling.training.parallel.tensor_plan import tensor_plan

ROOT = Path(__file__).parents[2]
HEADS = ("tied", "own")


def _train(out: Path, sizes: Sequence[int], resume: Path | None = None) -> dict[str, Any]:
    """Train in data x shard x tensor processes; what they saw, by head."""
    out.mkdir()
    words = [str(out), *map(str, sizes), *([] if resume is None else [str(resume)])]
    script = ["-m", "tests.training.parallel_worker", *words]
    num_processes = sizes[0] * sizes[1] * sizes[2]
    command, changes = [sys.executable, *script], {}
    if num_processes > 1:
        meeting = out / "meeting"
        command, changes = torchrun_command(script, num_processes, meeting, max_restarts=0)  # type: ignore[assignment]
    ended = subprocess.run(
        command,
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=200,
        env={**os.environ, "PYTHONPATH": f"{ROOT}/src:{ROOT}", "OMP_NUM_THREADS": "1", **changes},
    )
    assert ended.returncode == 0, ended.stderr[-4000:]
    return {head: json.loads((out / f"{head}.json").read_text()) for head in HEADS}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("alone") / "run"
    return out, _train(out, (1, 1, 1))


@pytest.fixture(scope="module")
def alone_resumed(alone: tuple[Path, dict[str, Any]]) -> dict[str, Any]:
    return _train(alone[0].parent / "resumed", (1, 1, 1), alone[0])


def _assert_same(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    for head in HEADS:
        for figure in ("losses", "norms", "twice"):
            assert found[head][figure] == pytest.approx(wanted[head][figure], abs=1e-5, rel=1e-5)
        for name, values in wanted[head]["weights"].items():
            # AdamW's first steps divide by the gradient's size: where it is near zero, so do bits.
            assert found[head]["weights"][name] == pytest.approx(values, abs=2e-5), name


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "sizes",
    [(2, 1, 1), (1, 2, 1), (1, 1, 2), (2, 2, 1), (1, 2, 2)],
    ids=["ddp", "fsdp2", "tensor", "copies-fsdp2", "fsdp2-tensor"],
)
def test_processes_learn_what_one_learns(
    sizes: tuple[int, int, int], alone: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    _assert_same(_train(tmp_path / "run", sizes), alone[1])


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_checkpoint_of_two_ranks_goes_on_in_one_and_in_four(
    alone_resumed: dict[str, Any], tmp_path: Path
) -> None:
    _train(tmp_path / "two", (1, 2, 1))
    _assert_same(_train(tmp_path / "one", (1, 1, 1), tmp_path / "two"), alone_resumed)
    _assert_same(_train(tmp_path / "four", (1, 4, 1), tmp_path / "two"), alone_resumed)


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_processes_end_well_while_gloo_lets_go() -> None:
    command = [sys.executable, "-m", "tests.training.gloo_ends", "12"]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}/src:{ROOT}", "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert ended.stdout.split()[-1:] == ["0"], ended.stderr[-4000:]


def test_share_deals_out_every_micro_batch_once() -> None:
    whole = [len(batch[0]) for batch in Rows().next_step()]
    shares = [ShareOfSource(Rows(), rank, 2).next_step() for rank in range(2)]
    assert [[len(batch[0]) for batch in share] for share in shares] == [whole[0::2], whole[1::2]]


def test_share_of_too_few_micro_batches_says_so() -> None:
    with pytest.raises(TrainingError, match="4 micro-batches for 5 processes"):
        ShareOfSource(Rows(), 0, 5).next_step()


def test_sizes_that_do_not_fit_the_processes_are_refused() -> None:
    assert ParallelConfig().sizes(4) == (4, 1, 1)
    with pytest.raises(ConfigError, match=r"data=1 x shard=2 x tensor=2 needs 4 processes.* 3"):
        ParallelConfig(shard=2, tensor=2).sizes(3)
    with pytest.raises(ConfigError, match=r"Set parallel\.shard=2"):
        ParallelConfig(tensor=2).sizes(4)
    with pytest.raises(ValueError, match="Set shard=2 and data=1"):
        ParallelConfig(data=2, tensor=2)


def test_plan_splits_by_columns_then_rows() -> None:
    styles = {
        path.replace("layers.0.part.", ""): type(style).__name__
        for path, style in tensor_plan(tiny_decoder("own"), 2).items()
        if not path.startswith("layers.1")
    }
    columns = {name for name, style in styles.items() if style == "ColwiseParallel"}
    rows = {name for name, style in styles.items() if style == "RowwiseParallel"}
    assert columns == {"query", "key", "value", "gate", "up", "head"}
    assert rows == {"output", "down", "embedding"}
    assert {"mixer_norm", "mlp_norm", "final_norm"} == styles.keys() - columns - rows


def test_model_that_cannot_be_split_is_refused() -> None:
    layer = variants.attending(positions=Alibi())
    spec = variants.model(variants.replace(layer, mlp=Plain(25, has_bias=False)))
    with pytest.raises(UnsupportedError, match=r"parallel\.shard"):
        tensor_plan(TorchDecoder(spec, variants.FAMILY), 2)
