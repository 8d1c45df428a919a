"""GGUF files of every architecture: what we compute from one is what llama.cpp computes from it.

llama.cpp's answers are recorded in data/llama_cpp.json; data/make_llama_cpp.py made them.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.parity.driving import log_softmax
from tests.parity.executors import EXECUTORS
from tests.parity.gguf_files import GGUF_CASES, PROMPTS, write_case
from yearling.models.checkpoint import open_checkpoint
from yearling.models.families import families
from yearling.models.fields import Fields

_ANSWERS = json.loads((Path(__file__).parent / "data" / "llama_cpp.json").read_text())
_IN_LLAMAS_FILES = ("internlm", "mistral", "skywork")
_TOLERANCE = 1e-4
_GELU_TOLERANCE = 1e-2  # its GELU goes through a table of 16-bit floats

Differences = dict[tuple[str, str, float], dict[str, float]]


def _last_logprobs(executor: Any, prompt: list[int]) -> NDArray[np.float64]:
    return log_softmax(executor.logits(prompt))[-1]


@pytest.mark.parametrize("name", GGUF_CASES)
def test_gguf_file_computes_what_llama_cpp_does(
    name: str, tmp_path: Path, differences: Differences
) -> None:
    write_case(tmp_path / "model.gguf", GGUF_CASES[name])
    checkpoint = open_checkpoint(tmp_path / "model.gguf")
    executor = EXECUTORS["native"](checkpoint)
    answers = np.array(_ANSWERS[name])
    found = np.array([_last_logprobs(executor, prompt) for prompt in PROMPTS])
    worst = float(np.abs(found - answers).max())
    tolerance = _GELU_TOLERANCE if "gelu" in repr(checkpoint.spec) else _TOLERANCE
    differences[f"{name}.gguf", "llama.cpp", tolerance] = {"native": worst}
    assert worst <= tolerance


@pytest.mark.parametrize("name", GGUF_CASES)
def test_gguf_file_has_the_spec_of_its_configuration(name: str, tmp_path: Path) -> None:
    case = GGUF_CASES[name]
    write_case(tmp_path / "model.gguf", case)
    spec = families.get(case.family).spec_from_config(Fields(case.config, name))
    found = open_checkpoint(tmp_path / "model.gguf").spec
    assert found.family == ("llama" if spec.family in _IN_LLAMAS_FILES else spec.family)
    assert [_rounded(layer) for layer in found.layers] == [_rounded(layer) for layer in spec.layers]
    assert (found.embedding, found.context, found.width) == (
        spec.embedding,
        spec.context,
        spec.width,
    )


def test_every_architecture_is_compared() -> None:
    read = {kind for _, family in families for kind in family.gguf_architectures}
    compared = {case.family for case in GGUF_CASES.values()}
    assert {kind for name in compared for kind in families.get(name).gguf_architectures} == read
    assert set(_ANSWERS) == set(GGUF_CASES)


def _rounded(layer: object) -> str:
    """Epsilons in GGUF are float32."""
    return (
        repr(layer)
        .replace("9.999999747378752e-06", "1e-05")
        .replace("9.999999974752427e-07", "1e-06")
    )
