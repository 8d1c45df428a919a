"""Adapters beside a served model against PEFT, on families that fuse and transpose matrices."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from yearling import LLM, SamplingParams
from yearling.core.errors import ModelFormatError

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default"), pytest.mark.timeout(120)]

_COMMON = {"vocab_size": 97, "eos_token_id": 2, "bos_token_id": 1}
_LLAMA = {
    "hidden_size": 32, "intermediate_size": 52, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
}  # fmt: skip
MODELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama": ("LlamaForCausalLM", "LlamaConfig", _LLAMA),
    "heads of six": ("LlamaForCausalLM", "LlamaConfig", {**_LLAMA, "head_dim": 6}),
    "gpt2": (
        "GPT2LMHeadModel",
        "GPT2Config",
        {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
    ),
    "gpt_neox": (
        "GPTNeoXForCausalLM",
        "GPTNeoXConfig",
        {
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": 64,
        },
    ),
}
IDS = [int(token) for token in np.random.default_rng(5).integers(3, 97, 24)]
SCORED = SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=0)


def _base(kind: str, folder: Path) -> Any:
    import transformers

    architecture, config, sizes = MODELS[kind]
    torch.manual_seed(7)
    settings = getattr(transformers, config)(**_COMMON, **sizes)
    model = getattr(transformers, architecture)(settings).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.08)
    model.save_pretrained(folder)
    return model


def _adapter(model: Any, folder: Path, seed: int, **options: Any) -> Any:
    """An adapter of random values, saved, and the model that has it."""
    import peft

    wrapped = peft.get_peft_model(
        model, peft.LoraConfig(r=4, lora_alpha=10, task_type="CAUSAL_LM", **options)
    )
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_" in name:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    wrapped.save_pretrained(folder)
    return wrapped.eval()


def _logprobs(theirs: Any) -> np.ndarray:
    with torch.no_grad():
        rows = theirs(torch.tensor([IDS])).logits[0].log_softmax(-1)
    return rows[torch.arange(len(IDS) - 1), torch.tensor(IDS[1:])].numpy()


def _scores(result: Any) -> np.ndarray:
    return np.array([score.logprob for score in result.prompt_score.tokens[1:]])


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("llama", {"target_modules": "all-linear"}),
        ("llama", {"target_modules": ["q_proj", "v_proj"], "use_rslora": True}),
        ("heads of six", {"target_modules": "all-linear"}),
        ("gpt2", {"target_modules": ["c_attn", "c_proj", "c_fc"], "fan_in_fan_out": True}),
        ("gpt_neox", {"target_modules": "all-linear"}),
    ],
)
def test_served_adapter_computes_what_peft_does(
    kind: str, options: dict[str, Any], tmp_path: Path
) -> None:
    model = _base(kind, tmp_path / "base")
    before = _logprobs(model)
    wrapped = _adapter(model, tmp_path / "adapter", 1, **options)
    with LLM(tmp_path / "base", weights="float32") as llm:
        llm.load_adapter("one", tmp_path / "adapter")
        alone, changed = llm.generate([IDS, IDS], SCORED, adapter=["", "one"])
    np.testing.assert_allclose(_scores(alone), before, atol=2e-5)
    np.testing.assert_allclose(_scores(changed), _logprobs(wrapped), atol=2e-5)
    assert np.abs(_scores(changed) - before).max() > 0.1  # without its update it were the base


def test_requests_of_several_adapters_share_a_batch(tmp_path: Path) -> None:
    """Each gets the bits that it gets alone, whatever runs beside it."""
    for seed in range(3):
        _adapter(
            _base("llama", tmp_path / "base"),
            tmp_path / str(seed),
            seed,
            target_modules="all-linear" if seed else ["down_proj"],
        )
    sampling = SamplingParams(max_tokens=8, temperature=0, logprobs=0, ignore_eos=True)
    with LLM(tmp_path / "base") as llm:
        names = [""]
        for seed in range(3):
            llm.load_adapter(names[-1] + str(seed), tmp_path / str(seed))
            names.append(names[-1] + str(seed))
        wanted = [names[i % 4] for i in range(12)]
        together = llm.generate([IDS] * 12, sampling, adapter=wanted)
        for name, result in zip(wanted, together, strict=True):
            assert llm.generate(IDS, sampling, adapter=name).logprobs == result.logprobs
        assert len({result.logprobs for result in together}) == 4


def test_tuned_adapter_of_another_base_names_what_was_expected(tmp_path: Path) -> None:
    _adapter(_base("gpt2", tmp_path / "gpt2"), tmp_path / "a", 1, target_modules=["c_attn"],
             fan_in_fan_out=True)  # fmt: skip
    _base("llama", tmp_path / "llama")
    with LLM(tmp_path / "llama") as llm, pytest.raises(ModelFormatError) as caught:
        llm.load_adapter("a", tmp_path / "a")
    message = str(caught.value)
    assert "it changes transformer.h.0.attn.c_attn" in message
    assert "model.layers.0.self_attn.q_proj" in message
    assert "down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj" in message
