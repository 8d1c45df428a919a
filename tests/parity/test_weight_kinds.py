"""How far fewer bits move the logits: each kind by something, and by less than the next."""

from pathlib import Path

import numpy as np
import pytest

from tests.parity.case import find_cases
from yearling.models.checkpoint import open_checkpoint
from yearling.serving.executors.native import NativeExecutor

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]


@pytest.mark.parametrize("family", ["llama", "mixtral", "gpt2"])
def test_converted_weights_stay_close(family: str, tmp_path: Path) -> None:
    case = find_cases()[family]
    variant = next(iter(case.variants.values()))
    oracle = case.oracle.make(tmp_path / "model", {**case.config, **variant})
    ids = [int(i) for i in np.random.default_rng(3).integers(0, 97, case.num_tokens)]
    exact = oracle(ids, len(ids))
    errors = []
    for weights in ("float32", "float16", "int8", "int4"):
        executor = NativeExecutor.load(open_checkpoint(tmp_path / "model"), weights=weights)  # type: ignore[arg-type]
        error = executor.logits(ids) - exact
        errors.append(float(np.sqrt(np.mean(error**2)) / exact.std()))
    assert errors[0] < 1e-5 < errors[1] < 0.005
    assert errors[1] < errors[2] < 0.05
    assert errors[2] < errors[3] < 0.5
