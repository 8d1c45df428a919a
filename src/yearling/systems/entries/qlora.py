"""QLoRA: an adapter through a base of four bits, at the quality of one through a whole base.

A small decoder that knows English text is adapted to Python's sources: in full, by LoRA beside
float32 weights, and by QLoRA beside NF4 codes, from the same weights and over the same batches.
Rounding errors are compared at equal bits, and LLaMA-7B's weights are counted from its shapes.

Source: Dettmers et al. 2023, arXiv:2305.14314.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from yearling.systems.system import Ablation, Check, Published, System, Trial, systems

if TYPE_CHECKING:
    from torch import Tensor

    from yearling.models.torch_decoder import TorchDecoder
    from yearling.systems.tiny_bases import Training

__all__ = ["frozen_digest", "round_evenly", "round_floats", "rounding_errors", "system"]

_SIZES: Mapping[str, Any] = {
    "model_type": "llama",
    "vocab_size": 128,
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 128,
    "tie_word_embeddings": False,
}
_SEQUENCES, _LENGTH, _NUM_VALIDATION = 8, 128, 64
_BASE_STEPS, _STEPS = 6_000, 160
_BASE_LR, _FULL_LR, _ADAPTER_LR = 2e-3, 1.5e-3, 8e-3  # each arm's best of those tried
_RANK, _ALPHA = 64, 16.0  # the authors' own
_ATTENTION = ("query", "key", "value", "output")
_KNOWN = ("collections", "datetime", "decimal", "difflib", "functools", "locale", "logging",
          "optparse", "pdb", "pickle", "socket", "subprocess", "tarfile", "threading",
          "zipfile")  # fmt: skip
_SOURCES = ("argparse", "ast", "dataclasses", "inspect", "pathlib", "statistics", "typing")

_BLOCK = 64
_E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)  # magnitudes of a four-bit float
_BFLOAT16_BYTES = 2


@dataclass(frozen=True)
class _Adapted:
    """What tuning came to: validation loss in nats, and whether the base's bytes are the same."""

    loss: float
    is_base_unchanged: bool


def _run(trial: Trial) -> Mapping[str, float]:
    lora = _adapt(trial, "lora")
    if trial.is_ablated:
        qlora = _adapt(trial, "rounded")
        return {
            "loss_gap": abs(qlora.loss - lora.loss),
            "lora_gap": 100.0 * (qlora.loss / lora.loss - 1.0),
        }
    qlora = _adapt(trial, "qlora")
    attention = _adapt(trial, "qlora", _ATTENTION)
    full = _adapt(trial, "full")
    return {
        "loss_gap": abs(qlora.loss - lora.loss),
        "lora_gap": 100.0 * (qlora.loss / lora.loss - 1.0),
        "full_gap": 100.0 * (qlora.loss / full.loss - 1.0),
        "attention_gap": attention.loss - qlora.loss,
        "base_unchanged": 100.0 * (qlora.is_base_unchanged and attention.is_base_unchanged),
        "loss_qlora": qlora.loss,
        "loss_lora": lora.loss,
        "loss_full": full.loss,
        **rounding_errors(trial.seed),
        "memory_share": _llama_share(),
    }


# --- adapting ----------------------------------------------------------------------------------


def _adapt(trial: Trial, arm: str, targets: "str | tuple[str, ...]" = "all-linear") -> "_Adapted":
    """Tune the base on sources, in one of the ways compared."""
    import torch

    from yearling.systems.tiny_bases import fit, token_losses, windows_of

    trained, held_out = _split(_source_codes(_SOURCES))
    decoder = _base(trial)
    _prepare(decoder, arm, targets, trial.seed)
    before = frozen_digest(decoder)

    def draw(step: int) -> Any:
        generator = torch.Generator().manual_seed(1_000_003 * trial.seed + step)
        starts = torch.randint(len(trained) - _LENGTH, (_SEQUENCES,), generator=generator)
        return windows_of(trained, _LENGTH, starts)

    seconds = 0.0 if arm == "rounded" else fit(decoder, draw, _tuning(arm, trial.seed))
    starts = torch.linspace(0, len(held_out) - _LENGTH - 1, _NUM_VALIDATION).long()
    loss = token_losses(decoder, windows_of(held_out, _LENGTH, starts)).mean().item()
    trial.say(f"{arm}, {targets}: validation loss {loss:.4f} nats, {seconds:.1f} s")
    return _Adapted(loss, before == frozen_digest(decoder))


def _tuning(arm: str, seed: int) -> "Training":
    from yearling.systems.tiny_bases import Training

    lr = _FULL_LR if arm == "full" else _ADAPTER_LR
    return Training(_STEPS, lr, seed=seed)


def _prepare(decoder: "TorchDecoder", arm: str, targets: Any, seed: int) -> None:
    """Attach the arm's adapter; full tuning has none, nor has a base that is only rounded."""
    from yearling.training.adapters import adapters
    from yearling.training.adapters.qlora import quantise_base

    if arm == "full":
        return
    if arm == "rounded":
        quantise_base(decoder, "torch")
        return
    kind = adapters.get("qlora" if arm == "qlora" else "lora")
    backend = {"backend": "torch"} if arm == "qlora" else {}
    config = kind.config(r=_RANK, alpha=_ALPHA, targets=targets, **backend)
    kind.attach(decoder, config, seed)


def frozen_digest(decoder: "TorchDecoder") -> str:
    """Hash all that is not trained, bit by bit."""
    from torch import uint8

    trained = {name for name, weight in decoder.named_parameters() if weight.requires_grad}
    digest = hashlib.sha256()
    for name, tensor in sorted(decoder.state_dict().items()):
        if name not in trained:
            flat = tensor.detach().reshape(-1).contiguous()
            digest.update(name.encode() + flat.view(uint8).numpy().tobytes())
    return digest.hexdigest()


def _base(trial: Trial) -> "TorchDecoder":
    """Give the decoder that knows English, which all seeds begin from."""
    import torch

    from yearling.systems.tiny_bases import Training, decoder_of, fit, kept_decoder, windows_of

    training = Training(_BASE_STEPS, _BASE_LR)

    def train() -> "TorchDecoder":
        text = torch.cat([_topic_codes(), _source_codes(_KNOWN)])
        decoder = decoder_of(_SIZES, 0)

        def draw(step: int) -> Any:
            generator = torch.Generator().manual_seed(2_000_003 + step)
            starts = torch.randint(len(text) - _LENGTH, (_SEQUENCES,), generator=generator)
            return windows_of(text, _LENGTH, starts)

        fit(decoder, draw, training, trial.say)
        return decoder

    settings = {
        "sizes": dict(_SIZES),
        "training": vars(training),
        "rows": [_SEQUENCES, _LENGTH],
        "known": _KNOWN,
    }
    return kept_decoder("qlora", settings, train, trial.say)


def _split(codes: "Tensor") -> "tuple[Tensor, Tensor]":
    cut = len(codes) * 9 // 10
    return codes[:cut], codes[cut:]


def _topic_codes() -> "Tensor":
    """Python's own reference, which comes with Python."""
    from pydoc_data.topics import topics

    return _codes("\n".join(topics[name] for name in sorted(topics)))


def _source_codes(names: Sequence[str]) -> "Tensor":
    """Sources of Python's library, in pieces in turn so that both parts hold some of each."""
    from importlib.util import find_spec
    from pathlib import Path

    texts = []
    for name in names:
        found = find_spec(name)
        assert found is not None
        assert found.origin is not None
        origin = Path(found.origin)
        file = origin / "__init__.py" if origin.is_dir() else origin
        texts.append(file.read_text(encoding="utf-8"))
    tenths = [
        text[len(text) * part // 10 : len(text) * (part + 1) // 10]
        for part in range(10)
        for text in texts
    ]
    return _codes("".join(tenths))


def _codes(text: str) -> "Tensor":
    import torch

    return torch.tensor(list(text.encode("ascii", "ignore")))


# --- rounding and memory -----------------------------------------------------------------------


def rounding_errors(seed: int, width: int = 2_048) -> dict[str, float]:
    """Compare mean square errors on normal weights, all of four bits in blocks of 64."""
    import torch

    from yearling.training.nf4 import dequantise_nf4, quantise_nf4

    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(width, width, generator=generator)
    quantised = quantise_nf4(weights)
    nf4 = (dequantise_nf4(quantised) - weights).square().mean().item()
    even = (round_evenly(weights, _BLOCK) - weights).square().mean().item()
    floats = (round_floats(weights, _BLOCK) - weights).square().mean().item()
    return {
        "error_over_int4": nf4 / even,
        "error_over_fp4": nf4 / floats,
        "bits": quantised.bits_per_weight,
    }


def round_evenly(weights: "Tensor", block: int) -> "Tensor":
    """Round to fifteen even levels between a block's largest magnitude and its opposite.

    >>> import torch
    >>> round_evenly(torch.tensor([7.0, 2.4, -3.6, 0.2]), 4).tolist()
    [7.0, 2.0, -4.0, 0.0]
    """
    blocks = weights.detach().reshape(-1, block)
    scale = blocks.abs().amax(dim=1, keepdim=True).clamp(min=1e-12) / 7
    return ((blocks / scale).round() * scale).reshape(weights.shape)


def round_floats(weights: "Tensor", block: int) -> "Tensor":
    """Round to floats of one sign, two exponent and one mantissa bit, scaled by block.

    >>> import torch
    >>> round_floats(torch.tensor([6.0, 2.4, -3.6, 0.2]), 4).tolist()
    [6.0, 2.0, -4.0, 0.0]
    """
    import torch

    blocks = weights.detach().reshape(-1, block)
    scale = blocks.abs().amax(dim=1, keepdim=True).clamp(min=1e-12) / _E2M1[-1]
    levels = torch.tensor(_E2M1)
    codes = torch.bucketize((blocks / scale).abs(), (levels[1:] + levels[:-1]) / 2)
    return (levels[codes] * blocks.sign() * scale).reshape(weights.shape)


def _llama_share() -> float:
    """Bytes of LLaMA-7B under QLoRA over those under LoRA in bfloat16, adapters included."""
    from yearling.models.families import families
    from yearling.models.presets import find_preset
    from yearling.models.torch_decoder import TorchDecoder

    spec = find_preset("llama-7b").spec
    decoder = TorchDecoder(spec, families.get(spec.family))
    small = large = 0.0
    for name, weight in decoder.named_parameters():
        full = float(_BFLOAT16_BYTES * weight.numel())
        is_linear = weight.dim() == 2 and "embed" not in name and "lm_head" not in name
        update = _BFLOAT16_BYTES * _RANK * sum(weight.shape) if is_linear else 0
        large += full + update
        small += (
            weight.numel() * (4 + 8 / 64 + 32 / (64 * 256)) / 8 if is_linear else full
        ) + update
    return small / large


system = systems.register(
    System(
        slug="qlora",
        claim="Fine-tunes adapters through a frozen base stored in 4-bit NormalFloat with doubly "
        "quantised scales, at the quality of 16-bit fine-tuning.",
        published=Published(
            "65 billion weights tuned on one 48 GB GPU; 99.3 % of ChatGPT on Vicuna's questions",
            "Dettmers et al. 2023, arXiv:2305.14314, abstract",
        ),
        honesty="The paper tunes LLaMA up to 65B on OASST1; here a decoder of 0.9 million weights "
        "that learned Python's reference and sources of its library is tuned on other sources of "
        "it, computed in float32. All seeds begin from one base; from one that has not learned so "
        "long, full tuning gains more than any adapter. "
        "LLaMA-7B's memory is counted from its shapes, without activations and paging; a model "
        "whose embedding is a larger part of it saves less. Chat quality is not judged. "
        "Updates make up for coarser rounding too at this size: what NF4's levels are worth shows "
        "in the rounding errors, not in the losses.",
        parts=(
            "training.adapters.lora",
            "training.adapters.qlora",
            "training.loop",
            "training.nf4",
            "training.objective",
            "training.optimizers.adamw",
            "models.torch_decoder",
            "models.families.llama",
            "models.presets",
            "systems.tiny_bases",
        ),
        checks=(
            Check(
                "loss_gap",
                "nats",
                "Validation losses after tuning by QLoRA and by LoRA, their distance.",
                at_most=0.02,
                is_worst_judged=True,
            ),
            Check(
                "lora_gap",
                "%",
                "Validation loss of QLoRA over that of LoRA, less one.",
                at_most=1.0,
            ),
            Check(
                "full_gap",
                "%",
                "Validation loss of QLoRA over that of full fine-tuning, less one.",
                at_most=1.0,
            ),
            Check(
                "attention_gap",
                "nats",
                "Loss with updates beside attention alone, less that beside all linear layers.",
                at_least=0.0,
            ),
            Check(
                "base_unchanged",
                "%",
                "Runs of QLoRA after which every bit of what is frozen is as before.",
                at_least=100.0,
                is_worst_judged=True,
            ),
            Check(
                "error_over_int4",
                "x",
                "Mean square error on normal weights, NF4 over even levels; blocks of 64.",
                at_most=0.9,
                is_worst_judged=True,
            ),
            Check(
                "error_over_fp4",
                "x",
                "The same over floats of four bits.",
                at_most=0.999,
                is_worst_judged=True,
            ),
            Check(
                "bits",
                "bits/weight",
                "Stored for a weight of a large matrix, scales included.",
                at_most=4.128,
                is_worst_judged=True,
            ),
            Check(
                "memory_share",
                "x",
                "Bytes of LLaMA-7B with its adapter, QLoRA's over LoRA's in bfloat16.",
                at_most=0.35,
            ),
        ),
        run=_run,
        ablation=Ablation(
            "the base rounded, and no updates beside it", breaks=("loss_gap", "lora_gap")
        ),
        paper={
            "model": "llama-7b",
            "data": "oasst1",
            "adapter": {"name": "qlora", "r": 64, "alpha": 16, "dropout": 0.1},
            "optimizer": {"name": "adamw", "lr": 2e-4, "beta2": 0.999},
            "schedule": {"name": "constant", "warmup": 0.03},
            "batch": 16,
            "steps": 1_875,
            "clip": 0.3,
        },
    ),
    __name__,
)
