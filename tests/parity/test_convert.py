"""SmolLM2's file to a folder and back: no code and no answer changes, in theirs and in ours."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from yearling.models.checkpoint.gguf import GgufFile
from yearling.models.conversion_check import compare_models
from yearling.models.convert import convert

PROMPT = [1, 9690, 198, 2683, 359, 253, 5356, 5646, 11173, 3365]
NEW_TOKENS = 16

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def converted(smollm2_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds `folder` and `back.gguf`."""
    home = tmp_path_factory.mktemp("converted")
    convert(smollm2_path, home / "folder")
    convert(home / "folder", home / "back.gguf", "Q4_1")
    return home


def test_every_code_comes_back(smollm2_path: Path, converted: Path) -> None:
    changes = compare_models(smollm2_path, converted / "back.gguf")
    print(*changes, sep="\n")
    assert {change.before: change.num_weights for change in changes} == {
        "Q4_1": 210,
        "Q8_0": 1,
        "F32": 61,
    }
    assert [change.changed_codes for change in changes] == [0, 0, 0]
    before, after = GgufFile(smollm2_path), GgufFile(converted / "back.gguf")
    for name in before.tensors:
        assert np.array_equal(before.tensor(name).data, after.tensor(name).data), name


def test_metadata_comes_back(smollm2_path: Path, converted: Path) -> None:
    before, after = GgufFile(smollm2_path).metadata, GgufFile(converted / "back.gguf").metadata
    assert {key for key in before if before[key] != after.get(key)} == set()
    # What the publisher left to be the default.
    assert set(after) - set(before) == {
        "llama.attention.key_length",
        "llama.attention.value_length",
        "tokenizer.ggml.add_eos_token",
    }


def test_transformers_answers_the_same(smollm2_path: Path, converted: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    def logits(**source: Any) -> Any:
        model = AutoModelForCausalLM.from_pretrained(dtype=torch.float32, **source)
        with torch.no_grad():
            return model(torch.tensor([PROMPT])).logits.numpy()

    before = logits(pretrained_model_name_or_path=smollm2_path.parent, gguf_file=smollm2_path.name)
    after = logits(pretrained_model_name_or_path=converted / "folder")
    np.testing.assert_array_equal(after, before)  # so every greedy token is the same, too


def test_our_engine_answers_the_same(smollm2_path: Path, converted: Path) -> None:
    from yearling import LLM, SamplingParams
    from yearling.serving.conversion import compare_logits

    difference = compare_logits(smollm2_path, converted / "folder")
    print(difference)
    assert difference.worst == 0
    params = SamplingParams(temperature=0, max_tokens=NEW_TOKENS)
    answers = []
    for path in (smollm2_path, converted / "back.gguf"):
        with LLM(path) as llm:
            answers.append(llm.generate(PROMPT, params).tokens)
    assert answers[0] == answers[1]
