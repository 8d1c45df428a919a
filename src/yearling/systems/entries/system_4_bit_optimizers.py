"""Four-bit optimizers: both of Adam's moments in four bits, at the accuracy of thirty-two.

A tiny decoder learns English text, once with AdamW and once with each four-bit form, from the
same weights and over the same batches. The form with a zero in the second moment's map shows why
there is none. Moments of the real run are compressed by rows and columns and by blocks, and the
state of LLaMA-7B is counted from its published shapes.

Source: Li, Chen and Zhu 2023, arXiv:2309.01507.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf, log
from statistics import fmean
from typing import TYPE_CHECKING, Any

from yearling.core.errors import NonFiniteError
from yearling.systems.system import Ablation, Check, Published, System, Trial, systems

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from yearling.models.torch_decoder import Segments, TorchDecoder

__all__ = ["system"]

_SIZES: Mapping[str, Any] = {
    "model_type": "llama",
    "vocab_size": 128,
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 64,
    "tie_word_embeddings": False,
}
_STEPS, _SEQUENCES, _LENGTH = 1_000, 4, 64
_NUM_VALIDATION = 128  # sequences
_LR, _OPTIONS = 1e-3, {"weight_decay": 0.1, "beta2": 0.999}
_DIVERGED = 100.0  # %, shown for a run that diverged, or ended higher still
_GUESSING = log(_SIZES["vocab_size"])  # nats
_WARM_UP = 100  # steps after which a run above guessing is given up

_GIGABYTE = 1e9
_BFLOAT16_BYTES = 2


@dataclass(frozen=True)
class _Text:
    """Sequences of character codes (n, length), with the character that follows each."""

    tokens: "Tensor"
    labels: "Tensor"


@dataclass(frozen=True)
class _Trained:
    """A finished run: its validation loss in nats, infinite if it diverged, and its optimizer."""

    loss: float
    optimizer: "torch.optim.Optimizer"

    @property
    def state_bytes(self) -> int:
        """Bytes of the tensors in the optimizer's state."""
        states = self.optimizer.state.values()
        return sum(tensor.nbytes for state in states for tensor in state.values())


def _run(trial: Trial) -> Mapping[str, float]:
    if trial.is_ablated:
        return _ablated(trial)
    full = _train(trial, "adamw", {})
    small = _train(trial, "adamw_4bit", {})
    with_zero = _train(trial, "adamw_4bit", {"second_map": "linear_with_zero"})
    return {
        "loss_gap": _gap(small, full),
        "zero_map_gap": _gap(with_zero, full),
        "state_share": small.state_bytes / full.state_bytes,
        "loss": full.loss,
        "loss_4bit": small.loss,
        **_quantisation_errors(full.optimizer),
        **_llama_memory(),
    }


def _ablated(trial: Trial) -> Mapping[str, float]:
    full = _train(trial, "adamw", {})
    with_zero = _train(trial, "adamw_4bit", {"second_map": "linear_with_zero"})
    return {"loss_gap": _gap(with_zero, full)}


def _gap(trained: _Trained, full: _Trained) -> float:
    """How much higher a loss ended, in %."""
    gap = 100.0 * (trained.loss / full.loss - 1.0)
    return gap if gap < _DIVERGED else _DIVERGED


# --- training ----------------------------------------------------------------------------------


def _train(trial: Trial, name: str, options: Mapping[str, Any]) -> _Trained:
    """Train the tiny decoder with the platform's loop."""
    from yearling.models.torch_decoder import labelled_losses
    from yearling.training.loop import Hooks, LoopConfig, Optimization, run_loop
    from yearling.training.objective import Loss, Objective, Update
    from yearling.training.optimizers import optimizers
    from yearling.training.schedules import ScheduleConfig

    text, held_out = _texts()
    decoder = _decoder(trial.seed)
    kind = optimizers.get(name)
    config = kind.config(lr=_LR, **_OPTIONS, **options)
    optimizer = kind.build([{"params": list(decoder.parameters())}], config)

    def loss(batch: _Text) -> Loss:
        hidden = decoder(batch.tokens.view(-1), _segments(len(batch.tokens)))
        return Loss(labelled_losses(decoder, hidden, batch.labels.view(-1)).sum())

    update = Update("loss", dict(decoder.named_parameters()), loss, lambda b: b.labels.numel())
    losses: list[float] = []
    hooks: Hooks[_Text] = Hooks(
        on_step=lambda report: losses.append(report.updates["loss"].loss),
        is_stopping=lambda: len(losses) > _WARM_UP and losses[-1] > _GUESSING,
    )
    try:
        result = run_loop(
            Objective({"decoder": decoder}, [update]),
            _Windows(text, trial.seed),
            Optimization(lambda _: optimizer, schedule=ScheduleConfig(name="cosine")),
            LoopConfig(max_steps=_STEPS, seed=trial.seed),
            hooks,
        )
        ended = inf if result.reason == "asked" else _validation_loss(decoder, held_out)
    except NonFiniteError:
        ended = inf
    trial.say(f"{name} {dict(options) or ''}: {len(losses)} steps, validation loss {ended:.4f}")
    return _Trained(ended, optimizer)


class _Windows:
    """Windows of the text at random places, for ever."""

    def __init__(self, text: "Tensor", seed: int) -> None:
        self._text = text
        self._seed = seed
        self._step = 0

    def next_step(self) -> Sequence[_Text]:
        import torch

        generator = torch.Generator().manual_seed(1_000_003 * self._seed + self._step)
        starts = torch.randint(len(self._text) - _LENGTH, (_SEQUENCES,), generator=generator)
        self._step += 1
        return [_windows(self._text, starts)]

    def row_names(self, batch: Any) -> Sequence[str]:
        return [f"text, step {self._step}"]

    def state_dict(self) -> dict[str, Any]:
        return {"step": self._step}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._step = state["step"]


def _windows(text: "Tensor", starts: "Tensor") -> _Text:
    import torch

    places = starts[:, None] + torch.arange(_LENGTH + 1)
    found = text[places]
    return _Text(found[:, :-1].contiguous(), found[:, 1:].contiguous())


def _validation_loss(decoder: "TorchDecoder", held_out: "Tensor") -> float:
    import torch

    from yearling.models.torch_decoder import labelled_losses

    starts = torch.linspace(0, len(held_out) - _LENGTH - 1, _NUM_VALIDATION).long()
    batch = _windows(held_out, starts)
    with torch.no_grad():
        hidden = decoder(batch.tokens.view(-1), _segments(_NUM_VALIDATION))
        return labelled_losses(decoder, hidden, batch.labels.view(-1)).mean().item()


def _segments(count: int) -> "Segments":
    from yearling.models.torch_decoder import Segments

    return Segments([_LENGTH] * count)


def _decoder(seed: int) -> "TorchDecoder":
    from yearling.models.families import families
    from yearling.models.fields import Fields
    from yearling.models.torch_decoder import TorchDecoder, initialise

    family = families.get("llama")
    decoder = TorchDecoder(
        family.spec_from_config(Fields(_SIZES, "the tiny decoder")), family, device="cpu"
    )
    initialise(decoder, seed=seed)
    return decoder


def _texts() -> "tuple[Tensor, Tensor]":
    """Give Python's own reference, which comes with Python, and its last tenth to validate on."""
    from pydoc_data.topics import topics

    import torch

    text = "\n".join(topics[name] for name in sorted(topics))
    codes = torch.tensor(list(text.encode("ascii", "ignore")))
    cut = len(codes) * 9 // 10
    return codes[:cut], codes[cut:]


# --- how well moments are kept -----------------------------------------------------------------


def _quantisation_errors(optimizer: "torch.optim.Optimizer") -> dict[str, float]:
    """Compress the second moments of a real run both ways.

    The error is the length of the difference over that of the moment. A matrix is heavy in
    outliers when its largest value is far above its mean; the heavier half is compared.
    """
    from yearling.training.moments import BlockCodes, RankOneCodes, linear_map

    moments = [state["exp_avg_sq"] for state in optimizer.state.values()]
    matrices = [moment for moment in moments if moment.dim() > 1]
    matrices.sort(key=lambda moment: (moment.max() / moment.mean()).item(), reverse=True)
    heavy = matrices[: len(matrices) // 2]
    stores = {"rank_one": RankOneCodes(linear_map()), "block": BlockCodes(linear_map())}
    errors = {
        name: fmean(_error(store, moment) for moment in heavy) for name, store in stores.items()
    }
    return {
        "rank_one_error": errors["rank_one"],
        "block_error": errors["block"],
        "error_ratio": errors["rank_one"] / errors["block"],
    }


def _error(store: Any, moment: "Tensor") -> float:
    restored = store.restore(store.compress(moment), moment.shape)
    error: float = ((restored - moment).norm() / moment.norm()).item()
    return error


# --- the memory of LLaMA-7B --------------------------------------------------------------------


def _llama_memory() -> dict[str, float]:
    """Count weights and gradients in bfloat16 and the state, from the published shapes."""
    from yearling.models.families import families
    from yearling.models.presets import find_preset
    from yearling.models.torch_decoder import TorchDecoder
    from yearling.training.optimizers import optimizers

    spec = find_preset("llama-7b").spec
    weights = list(TorchDecoder(spec, families.get(spec.family)).parameters())
    shared = 2 * _BFLOAT16_BYTES * sum(weight.numel() for weight in weights)
    totals = {}
    for name in ("adamw", "adamw_4bit"):
        kind = optimizers.get(name)
        config = kind.config()
        totals[name] = shared + sum(kind.state_bytes(weight, config) for weight in weights)
    saving = 100.0 * (1.0 - totals["adamw_4bit"] / totals["adamw"])
    return {
        "llama_7b_gigabytes": totals["adamw"] / _GIGABYTE,
        "llama_7b_4bit_gigabytes": totals["adamw_4bit"] / _GIGABYTE,
        "llama_7b_saving": saving,
        "llama_7b_saving_not_above": saving,
    }


system = systems.register(
    System(
        slug="4-bit-optimizers",
        claim="Adam's moments in four bits train as well as in thirty-two, and cut the memory of "
        "training LLaMA-7B by up to 57 %.",
        published=Published(
            "57.7 % of the memory of fine-tuning LLaMA-7B saved, accuracy unchanged",
            "Li, Chen and Zhu 2023, arXiv:2309.01507",
        ),
        honesty="The paper fine-tunes RoBERTa, GPT-2 and LLaMA and measures a GPU's memory; here a "
        "decoder of 0.4 million weights learns Python's reference from nothing, and LLaMA-7B's "
        "memory is counted from its shapes: weights, gradients and state, no activations. The "
        "memory saved is that of training in full; under an adapter there is little to save.",
        parts=(
            "training.loop",
            "training.objective",
            "training.optimizers.adamw",
            "training.optimizers.adamw_4bit",
            "models.torch_decoder",
            "models.families.llama",
            "models.presets",
        ),
        checks=(
            Check(
                "llama_7b_saving",
                "%",
                "Bytes of weights, gradients and state that four bits save LLaMA-7B.",
                at_least=50.0,
            ),
            Check(
                "llama_7b_saving_not_above",
                "%",
                "The same figure: were it more than the paper's, bytes would have been forgotten.",
                at_most=60.0,
            ),
            Check(
                "loss_gap",
                "%",
                "Final validation loss over that of AdamW in thirty-two bits, less one.",
                at_most=1.0,
            ),
            Check(
                "state_share",
                "x",
                "Bytes of state, as they lie in memory, over those of AdamW in thirty-two bits.",
                at_most=1 / 7,
                is_worst_judged=True,
            ),
            Check(
                "zero_map_gap",
                "%",
                "The loss gap with a zero in the second moment's map; 100 where it diverges.",
                at_least=5.0,
                is_worst_judged=True,
            ),
            Check(
                "error_ratio",
                "x",
                "Error of real second moments heavy in outliers, by rows and columns over by "
                "blocks of 128.",
                at_most=0.999,
                is_worst_judged=True,
            ),
        ),
        run=_run,
        ablation=Ablation("a zero in the second moment's map", breaks=("loss_gap",)),
        paper={
            "model": "llama-7b",
            "data": "alpaca",
            "precision": "bfloat16",
            "optimizer": {"name": "adamw_4bit", "lr": 2e-5, "weight_decay": 0.0},
        },
    ),
    __name__,
)
