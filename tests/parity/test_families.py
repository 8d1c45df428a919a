"""Every family at a tiny random size, on both executors, against somebody else's arithmetic.

`pytest tests/parity/test_families.py` ends with a line per family.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.parity.case import Case, Logits, find_cases
from tests.parity.driving import Driver, log_softmax
from tests.parity.executors import EXECUTORS, TinyExecutor, WithSpec
from yearling import LLM
from yearling.models.checkpoint import Checkpoint, open_checkpoint
from yearling.models.families import families

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default"), pytest.mark.timeout(120)]

CASES = find_cases()
_VARIANTS = [(family, variant) for family, case in CASES.items() for variant in case.variants]
_ABLATIONS = [(family, name) for family, case in CASES.items() for name in case.ablations]
_DECODED = 12
_VISIBLE = 1e-2
_ENCODERS = {"bert"}  # vectors, not logits: test_encoders.py

Differences = dict[tuple[str, str, float], dict[str, float]]
Tiny = tuple[Checkpoint, Logits]


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Tiny]:
    """Models made so far, by family and variant; both executors read the same files."""
    root = tmp_path_factory.mktemp("families")

    class Made(dict[tuple[str, str], Tiny]):
        def __missing__(self, key: tuple[str, str]) -> Tiny:
            case, folder = CASES[key[0]], root / f"{key[0]}-{len(self)}"
            logits = case.oracle.make(folder, {**case.config, **case.variants[key[1]]})
            self[key] = _opened(folder, case), logits
            return self[key]

    return Made()


def _opened(folder: Path, case: Case) -> Checkpoint:
    checkpoint = open_checkpoint(folder)
    return WithSpec(checkpoint, checkpoint.spec, case.num_tokens)


def _ids(checkpoint: Checkpoint, length: int) -> list[int]:
    random = np.random.default_rng(length)
    return [int(token) for token in random.integers(3, checkpoint.spec.vocabulary, length)]


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize(("family", "variant"), _VARIANTS)
def test_family_computes_what_its_oracle_does(
    family: str,
    variant: str,
    executor: str,
    models: dict[tuple[str, str], Tiny],
    differences: Differences,
) -> None:
    """Whole prompts, unequal prompts in one batch, decoding, and again after a preemption."""
    case, (checkpoint, oracle) = CASES[family], models[family, variant]
    made = EXECUTORS[executor](checkpoint)
    found = {
        name: float(np.abs(expected - ours).max())
        for name, expected, ours in _compared(made, checkpoint, oracle, case.num_tokens)
    }
    row = differences[family, case.oracle.name, case.tolerance]
    row[executor] = max(row.get(executor, 0.0), *found.values())
    assert max(found.values()) <= case.tolerance, found


def _compared(
    executor: TinyExecutor, checkpoint: Checkpoint, oracle: Logits, longest: int
) -> Iterator[tuple[str, NDArray[np.floating[Any]], NDArray[np.floating[Any]]]]:
    """What was compared, what the oracle says, and what the executor does."""
    prompts = {"one": 2, "short": 9, "long": longest - _DECODED}
    texts = {name: _ids(checkpoint, length + _DECODED) for name, length in prompts.items()}
    expected = {name: oracle(texts[name], prompts[name]) for name in texts}
    for name, length in prompts.items():
        yield f"alone, {name}", expected[name], executor.logits(texts[name], length)
    whole = texts["long"]
    yield "prefill", oracle(whole, longest), executor.logits(whole)
    driver = Driver(executor, checkpoint.spec.vocabulary)
    for name, rows in _decoded(driver, texts, prompts).items():
        yield f"batch, {name}", log_softmax(expected[name]), rows


def _decoded(
    driver: Driver, texts: Mapping[str, list[int]], prompts: Mapping[str, int]
) -> dict[str, NDArray[np.float64]]:
    """Unequal prompts in one step, then token by token; one is preempted half-way."""
    for name, length in prompts.items():
        driver.start(name, length)
    found = driver.step({name: texts[name][:length] for name, length in prompts.items()})
    for index in range(_DECODED):
        if index == _DECODED // 2:
            driver.preempt("long")
            driver.start("long", prompts["long"])
            driver.recompute("long", texts["long"][: prompts["long"] + index])
        part = driver.step({name: [texts[name][n + index]] for name, n in prompts.items()})
        found = {name: np.concatenate([found[name], part[name]]) for name in found}
    return found


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("family", CASES)
def test_llm_gives_the_logits_of_a_folder_without_tokenizer(
    family: str, executor: Literal["native", "torch"], models: dict[tuple[str, str], Tiny]
) -> None:
    checkpoint, oracle = models[family, next(iter(CASES[family].variants))]
    ids = _ids(checkpoint, 12)
    with LLM(checkpoint.path, executor=executor, weights="float32") as llm:
        found = llm.logits(ids)
    assert np.abs(oracle(ids, len(ids)) - found).max() <= CASES[family].tolerance


@pytest.mark.parametrize(("family", "ablation"), _ABLATIONS)
def test_comparison_sees_a_part_taken_away(
    family: str, ablation: str, models: dict[tuple[str, str], Tiny]
) -> None:
    case = CASES[family]
    variant = ablation.partition(":")[0] if ":" in ablation else next(iter(case.variants))
    checkpoint, oracle = models[family, variant]
    changed = WithSpec(checkpoint, case.ablations[ablation](checkpoint.spec), case.num_tokens)
    ids = _ids(checkpoint, case.num_tokens)
    found = EXECUTORS["native"](changed).logits(ids)
    assert np.abs(oracle(ids, len(ids)) - found).max() > _VISIBLE


def test_every_family_is_compared() -> None:
    assert set(CASES) == set(families.names()) - _ENCODERS
    assert all(case.ablations for case in CASES.values())
