"""Adapters against PEFT on transformers' models: either side loads what the other saved."""

from pathlib import Path
from typing import Any

import pytest
import torch

from yearling.models.checkpoint import open_checkpoint
from yearling.models.torch_decoder import Segments, TorchDecoder, load_torch_decoder
from yearling.training.adapters import adapters
from yearling.training.lora_layers import attach_low_rank, load_low_rank, low_rank_of
from yearling.training.peft_folder import read_peft_folder

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]

IDS = torch.randint(97, (24,), generator=torch.Generator().manual_seed(3))
LLAMA = {
    "vocab_size": 97, "hidden_size": 32, "intermediate_size": 56, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
}  # fmt: skip
MODELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama": ("LlamaForCausalLM", "LlamaConfig", LLAMA),
    "llama, tied": ("LlamaForCausalLM", "LlamaConfig", {**LLAMA, "tie_word_embeddings": True}),
    "gpt2": (
        "GPT2LMHeadModel",
        "GPT2Config",
        {"vocab_size": 97, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
    ),
}


@pytest.fixture(params=MODELS)
def model(request, tmp_path: Path):
    """A model of transformers and the folder it was saved to."""
    import transformers

    kind, config, sizes = MODELS[request.param]
    torch.manual_seed(7)
    settings = getattr(transformers, config)(**sizes, eos_token_id=2, bos_token_id=1)
    theirs = getattr(transformers, kind)(settings).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.08)
    theirs.save_pretrained(tmp_path / "base")
    return theirs, tmp_path / "base"


def ours(folder: Path) -> TorchDecoder:
    return load_torch_decoder(open_checkpoint(folder))


def moved(model: torch.nn.Module) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return model.eval()


def logits(decoder: TorchDecoder) -> torch.Tensor:
    with torch.no_grad():
        return decoder.logits(decoder.eval()(IDS, Segments([len(IDS)])))


def assert_equal(mine: torch.Tensor, theirs: Any) -> None:
    with torch.no_grad():
        expected = theirs(IDS[None]).logits[0]
    torch.testing.assert_close(mine, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("lora", {}),
        ("lora", {"use_rslora": True, "targets": ("query", "down")}),
        ("lora", {"trained_whole": ("norms",)}),
        ("longlora", {}),
        ("p_tuning", {"prefix_tokens": 7, "std": 0.5}),
    ],
)
def test_our_adapter_loads_in_peft(
    model: Any, tmp_path: Path, kind: str, options: dict[str, Any]
) -> None:
    from peft import PeftModel

    theirs, folder = model
    adapter, decoder = adapters.get(kind), ours(folder)
    base = logits(decoder)
    config = adapter.config(**options)
    adapter.attach(decoder, config, 1)
    moved(decoder)
    adapter.save(decoder, config, tmp_path / "adapter", str(folder))
    assert not torch.allclose(logits(decoder), base, atol=1e-2)
    loaded = PeftModel.from_pretrained(theirs, tmp_path / "adapter").eval()
    assert_equal(logits(decoder), loaded)


@pytest.mark.parametrize(
    "options", [{"target_modules": "all-linear"}, {"use_rslora": True, "lora_dropout": 0.1}]
)
def test_adapter_of_peft_loads_in_ours(model: Any, tmp_path: Path, options: dict[str, Any]) -> None:
    import peft

    theirs, folder = model
    config = peft.LoraConfig(r=4, lora_alpha=10, task_type="CAUSAL_LM", **options)
    wrapped = moved(peft.get_peft_model(theirs, config))
    wrapped.save_pretrained(tmp_path / "adapter")
    decoder = ours(folder)
    attach_low_rank(decoder, low_rank_of(read_peft_folder(tmp_path / "adapter")), 1)
    load_low_rank(decoder, tmp_path / "adapter")
    assert_equal(logits(decoder), wrapped)


def test_all_linear_is_what_peft_means_by_it(model: Any) -> None:
    import peft

    from yearling.training.lora_layers import lora_layers

    theirs, folder = model
    wrapped = peft.get_peft_model(theirs, peft.LoraConfig(target_modules="all-linear"))
    decoder = ours(folder)
    adapters.get("lora").attach(decoder, adapters.get("lora").config(), 1)
    prefix = "base_model.model."
    names = {name.removeprefix(prefix) for name, _ in lora_layers(wrapped)}
    assert {name for name, _ in lora_layers(decoder)} == names
