"""Our LLaMA against transformers' own class, on tiny random weights of every variant."""

import json
from pathlib import Path

import numpy as np
import pytest

from yearling.core.errors import UnsupportedError
from yearling.models.checkpoint import open_checkpoint
from yearling.models.program import compile_program
from yearling.serving.executor import SampleInput, SequenceInput
from yearling.serving.executors.native import NativeExecutor

VARIANTS = {
    "plain": {},
    "grouped queries": {"num_key_value_heads": 2},
    "one key head": {"num_key_value_heads": 1},
    "wide heads": {"head_dim": 24},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "tied head": {"tie_word_embeddings": True},
    "linear scaling": {"rope_scaling": {"rope_type": "linear", "factor": 4.0}},
    "llama 3 scaling": {
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        }
    },
    "yarn": {
        "rope_scaling": {
            "rope_type": "yarn",
            "factor": 4.0,
            "original_max_position_embeddings": 64,
        }
    },
}
SIZES = {
    "vocab_size": 97,
    "hidden_size": 64,
    "intermediate_size": 112,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 256,
}


@pytest.fixture(params=VARIANTS)
def model(request, tmp_path):
    """A random model of transformers' class, saved as a Hugging Face folder beside it."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(7)
    config = LlamaConfig(**(SIZES | VARIANTS[request.param]))
    theirs = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            # Larger than their start values, so that every part of the model shows in the logits.
            parameter.add_(torch.randn_like(parameter) * 0.08)
    theirs.save_pretrained(tmp_path / "model")
    return theirs, tmp_path / "model"


def greedy(index: int) -> SampleInput:
    return SampleInput(0.0, 0, 1.0, 0.0, 1.0, 0.0, 0.0, seed=0, output_index=index)


@pytest.mark.slow
def test_llama_logits_equal_transformers(model):
    import torch

    theirs, folder = model
    ids = np.random.default_rng(1).integers(0, 97, 150).tolist()
    with torch.no_grad():
        expected = theirs(torch.tensor([ids])).logits[0].numpy()
    executor = NativeExecutor.load(open_checkpoint(folder), weights="float32")
    np.testing.assert_allclose(executor.logits(ids), expected, atol=1e-4)


@pytest.mark.slow
def test_llama_decoding_equals_transformers(model):
    """Prompts of unequal length, in chunks and in one batch, then token by token."""
    import torch

    theirs, folder = model
    rng = np.random.default_rng(2)
    prompts = [rng.integers(0, 97, length).tolist() for length in (1, 17, 40)]
    with torch.no_grad():
        expected = [
            theirs.generate(
                torch.tensor([prompt]), max_new_tokens=12, do_sample=False,
                eos_token_id=None, pad_token_id=0,
            )[0, len(prompt):].tolist()
            for prompt in prompts
        ]  # fmt: skip
    executor = NativeExecutor.load(open_checkpoint(folder), weights="float32")
    tables = [[0, 1, 2, 3], [9, 8, 7, 6], [20, 5, 4, 3 + 20]]
    executor.execute([SequenceInput(prompts[2][:23], 0, tables[2])])
    done = [0, 0, 23]
    answers: list[list[int]] = [[], [], []]
    for index in range(12):
        step = [
            SequenceInput((prompt + answer)[start:], start, table, greedy(index))
            for prompt, answer, start, table in zip(prompts, answers, done, tables, strict=True)
        ]
        for number, output in enumerate(executor.execute(step)):
            done[number] += len(step[number].tokens)
            answers[number].append(output.sample.token)
    assert answers == expected


@pytest.mark.slow
def test_llama_converted_weights_stay_close(model):
    """Fewer bits move the logits more: each kind by something, and by less than the next."""
    _, folder = model
    ids = np.random.default_rng(3).integers(0, 97, 60).tolist()
    exact = NativeExecutor.load(open_checkpoint(folder), weights="float32").logits(ids)
    errors = [
        np.sqrt(np.mean((_logits(folder, kind, ids) - exact) ** 2)) / exact.std()
        for kind in ("float16", "int8", "int4")
    ]
    assert 0 < errors[0] < 0.005
    assert errors[0] < errors[1] < 0.05
    assert errors[1] < errors[2] < 0.5


def _logits(folder, weights, ids):
    return NativeExecutor.load(open_checkpoint(folder), weights=weights).logits(ids)


def test_program_refuses_by_name_what_it_does_not_compute(tmp_path):
    import safetensors.numpy

    folder = tmp_path / "model"
    folder.mkdir()
    config = SIZES | {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "rope_scaling": {"rope_type": "dynamic", "factor": 2.0},
    }
    (folder / "config.json").write_text(json.dumps(config))
    safetensors.numpy.save_file(_weights(), folder / "model.safetensors")
    with pytest.raises(UnsupportedError, match="rotary scaling 'dynamic_ntk' is not computed yet"):
        compile_program(open_checkpoint(Path(folder)))


def _weights() -> dict[str, np.ndarray]:
    shapes = {
        "self_attn.q_proj": (64, 64),
        "self_attn.k_proj": (64, 64),
        "self_attn.v_proj": (64, 64),
        "self_attn.o_proj": (64, 64),
        "mlp.gate_proj": (112, 64),
        "mlp.up_proj": (112, 64),
        "mlp.down_proj": (64, 112),
        "input_layernorm": (64,),
        "post_attention_layernorm": (64,),
    }
    tensors = {"model.embed_tokens": (97, 64), "model.norm": (64,), "lm_head": (97, 64)}
    for layer in range(3):
        tensors |= {f"model.layers.{layer}.{name}": shape for name, shape in shapes.items()}
    return {f"{name}.weight": np.zeros(shape, np.float32) for name, shape in tensors.items()}
