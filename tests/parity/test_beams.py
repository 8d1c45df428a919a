"""Beam search against transformers' on the same weights."""

from pathlib import Path
from typing import Any

import pytest
import torch

from yearling import LLM

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default"), pytest.mark.timeout(120)]

END = 2


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=97, hidden_size=32, intermediate_size=56, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
        eos_token_id=END, bos_token_id=1,
    )  # fmt: skip
    theirs = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.15)
        theirs.lm_head.weight[END] += 0.35  # so that answers end now and then
    folder = tmp_path_factory.mktemp("beams") / "model"
    theirs.save_pretrained(folder)
    return theirs, folder


@pytest.mark.parametrize("length_penalty", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("width", [1, 3, 6])
def test_answers_are_those_of_transformers(
    model: tuple[Any, Path], width: int, length_penalty: float
) -> None:
    theirs, folder = model
    num_ended = 0
    with LLM(folder, weights="float32") as llm:
        for seed in range(6):
            ids = torch.randint(3, 97, (9,), generator=torch.Generator().manual_seed(seed))
            with torch.no_grad():
                rows = theirs.generate(
                    ids[None], num_beams=width, num_return_sequences=width, max_new_tokens=10,
                    do_sample=False, early_stopping=False, length_penalty=length_penalty,
                    pad_token_id=0,
                )  # fmt: skip
            expected = [_trimmed(row[len(ids) :].tolist()) for row in rows]
            found = llm.beam_search(
                ids.tolist(), width=width, max_tokens=10, length_penalty=length_penalty
            )
            assert [list(beam.tokens) for beam in found] == expected
            num_ended += sum(beam.finish_reason == "stop" for beam in found)
    assert num_ended > 0 or width == 1


def _trimmed(tokens: list[int]) -> list[int]:
    return tokens[: tokens.index(END) + 1] if END in tokens else tokens
