"""Hugging Face models that no family covers, behind the same scheduler."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from driving import drive, make_request

from yearling.core.errors import ModelFormatError, UnsupportedError
from yearling.models.checkpoint.fallback_checkpoint import FallbackCheckpoint
from yearling.serving.engine import Engine, EngineConfig
from yearling.serving.executor import GroupBlocks, SequenceInput
from yearling.serving.executors.transformers import TransformersExecutor

pytestmark = pytest.mark.slow

PROMPTS = [np.random.default_rng(n).integers(3, 60, n).tolist() for n in (4, 11, 7)]
SIZES = {
    "T5ForConditionalGeneration": ("T5Config", {"d_model": 32, "d_kv": 8, "d_ff": 48,
        "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 0}),
    "OPTForCausalLM": ("OPTConfig", {"hidden_size": 32, "ffn_dim": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "max_position_embeddings": 64, "word_embed_proj_dim": 32}),
    "RwkvForCausalLM": ("RwkvConfig", {"hidden_size": 32, "num_hidden_layers": 2,
        "context_length": 64}),
}  # fmt: skip


def random_model(kind: str):
    import transformers

    config, sizes = SIZES[kind]
    torch.manual_seed(5)
    model = getattr(transformers, kind)(getattr(transformers, config)(vocab_size=60, **sizes))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


def make_engine(executor: TransformersExecutor, max_sequences: int) -> Engine:
    config = EngineConfig(max_sequences=max_sequences)
    return Engine(executor, None, context=64, eos_token_ids=(), config=config, vocabulary=60)


@pytest.fixture(params=SIZES)
def saved(request, tmp_path):
    model = random_model(request.param)
    model.save_pretrained(tmp_path / "model")
    return model, tmp_path / "model"


def true_answer(model, prompt: list[int], num_tokens: int) -> list[int]:
    """Greedy tokens of the model's own class, without a cache."""
    answer: list[int] = []
    for _ in range(num_tokens):
        with torch.no_grad():
            if model.config.is_encoder_decoder:
                row = torch.tensor([[0, *answer]])
                result = model(input_ids=torch.tensor([prompt]), decoder_input_ids=row)
            else:
                result = model(input_ids=torch.tensor([prompt + answer]))
        answer.append(int(result.logits[0, -1].argmax()))
    return answer


def test_answers_equal_the_class_in_any_company(saved) -> None:
    model, folder = saved
    expected = [true_answer(model, prompt, 9) for prompt in PROMPTS]
    executor = TransformersExecutor.load(FallbackCheckpoint(folder))
    for max_sequences in (1, 3):
        engine = make_engine(executor, max_sequences)
        requests = [make_request(prompt, max_tokens=9) for prompt in PROMPTS]
        assert [answer.tokens for answer in drive(engine, *requests)] == expected
    for prompt, answer in zip(PROMPTS, expected, strict=True):
        logits = executor.logits(prompt + answer, len(prompt))
        assert logits[-10:-1].argmax(-1).tolist() == answer


def test_a_sequence_that_starts_again_ends_alike(saved) -> None:
    model, folder = saved
    executor = TransformersExecutor.load(FallbackCheckpoint(folder))
    prompt, answer = PROMPTS[0], true_answer(model, PROMPTS[0], 3)
    slot = [GroupBlocks([2])]
    executor.execute([SequenceInput(prompt, 0, slot, len(prompt))])
    step = [SequenceInput([*prompt, *answer], 0, slot, len(prompt))]
    executor.execute(step)  # as after a preemption
    assert executor._slots[2].tokens == prompt + answer


def test_prompts_are_scored_by_decoders_and_refused_by_encoders(saved) -> None:
    model, folder = saved
    executor = TransformersExecutor.load(FallbackCheckpoint(folder))
    prompt = PROMPTS[1]
    step = [SequenceInput(prompt, 0, [GroupBlocks([0])], 11, score_targets=[*prompt[1:], -1])]
    (output,) = executor.execute(step)
    if model.config.is_encoder_decoder:
        assert "encoder-decoder" in (output.error or "")
        return
    with torch.no_grad():
        logprobs = model(input_ids=torch.tensor([prompt])).logits[0].double().log_softmax(-1)
    assert output.scores[-1] is None
    for row, score in enumerate(output.scores[:-1]):
        assert score is not None
        assert score.logprob == pytest.approx(float(logprobs[row, prompt[row + 1]]), abs=1e-5)


def test_code_in_a_folder_is_never_run(tmp_path: Path) -> None:
    config = {"model_type": "strange", "vocab_size": 9, "auto_map": {"AutoModel": "code.Model"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "code.py").write_text("raise SystemExit('this ran')")
    with pytest.raises(ModelFormatError, match="such code is never run"):
        FallbackCheckpoint(tmp_path)


def test_models_nobody_knows_are_named(tmp_path: Path) -> None:
    config = {"model_type": "strange", "vocab_size": 9}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        ModelFormatError, match=r"neither a family nor transformers reads .*strange"
    ):
        TransformersExecutor.load(FallbackCheckpoint(tmp_path))


def test_pickles_are_not_read(tmp_path: Path) -> None:
    model = random_model("OPTForCausalLM")
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelFormatError, match="neither a family nor transformers"):
        TransformersExecutor.load(FallbackCheckpoint(tmp_path))


def test_four_bit_weights_are_refused(saved) -> None:
    _, folder = saved
    with pytest.raises(UnsupportedError, match="int4 weights"):
        TransformersExecutor.load(FallbackCheckpoint(folder), weights="int4")
