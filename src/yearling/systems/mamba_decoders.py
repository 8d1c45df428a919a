"""Small decoders that Mamba's row compares: state spaces and attention, trained alike and kept.

They copy symbols out of noise, recall what once followed a token, or continue Python's sources.
Both arms of a task have as many weights, and see the same rows in the same order.

Source: Gu and Dao 2023, arXiv:2312.00752, section 4.1.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from yearling.systems.kept_weights import train_or_read
from yearling.systems.selection_tasks import (
    copying_rows,
    fix_selection,
    induction_rows,
    shorten_steps,
    small_decoder,
)
from yearling.systems.text_by_context import library_text

if TYPE_CHECKING:
    from torch import Tensor

    from yearling.models.torch_decoder import TorchDecoder
    from yearling.systems.system import Trial
    from yearling.systems.tiny_bases import Rows

__all__ = [
    "NOISY_LENGTH",
    "NUM_SYMBOLS",
    "WINDOW",
    "Arm",
    "Task",
    "decoder_config",
    "held_out_text",
    "trained_decoder",
]

Arm = Literal["mamba", "attention"]

NUM_SYMBOLS, NOISY_LENGTH = 16, 256
"""Symbols to copy, and the tokens that they are scattered over."""

# From a share of all steps: tokens that the symbols are scattered over, and rows of a step.
_LONGER_NOISE = ((0.0, 24, 16), (0.35, 64, 16), (0.65, NOISY_LENGTH, 8))
_INDUCTION_LENGTH, _INDUCTION_ROWS, _MOST_QUESTIONS = 64, 32, 2

WINDOW = 256
"""Characters of a row of sources."""

_WINDOWS = 8
_TRAINED = ("collections", "_pydecimal", "difflib", "doctest", "enum", "functools", "http.client",
            "imaplib", "ipaddress", "locale", "logging", "optparse", "pdb", "pickle", "pydoc",
            "shutil", "smtplib", "ssl", "subprocess", "tarfile", "threading", "traceback",
            "turtle", "urllib.request", "zipfile")  # fmt: skip
_HELD_OUT = ("argparse", "ast", "dataclasses", "inspect", "pathlib", "statistics", "typing")
_LONGEST = 1 << 16  # positions of attention


@dataclass(frozen=True)
class Task:
    """Decoders of equal size and how they learn.

    Attributes:
        name: What is learned: `copying`, `induction` or `sources`.
        vocabulary: Ids.
        width: Of both decoders.
        mamba_layers: Its layers.
        states: Of each of Mamba's channels.
        attention_layers: Layers of attention and an MLP.
        hidden: Width of those MLPs, which makes the sizes equal.
        steps: Of training.
        mamba_lr: Learning rate of Mamba, the best of those tried.
        attention_lr: Of attention, the same.
        schedule: Shape of both.
        std: Of first weights; decoders so narrow begin slowly from the usual 0.02.
        step_share: What is left of the time steps that Mamba usually begins with.
    """

    name: str
    vocabulary: int
    width: int
    mamba_layers: int
    states: int
    attention_layers: int
    hidden: int
    steps: int
    mamba_lr: float
    attention_lr: float
    schedule: str
    std: float = 0.1
    step_share: float = 1.0


def decoder_config(arm: Arm, task: Task) -> dict[str, Any]:
    """Give the config.json of a decoder of the comparison."""
    config = {
        "vocab_size": task.vocabulary,
        "hidden_size": task.width,
        "tie_word_embeddings": False,
    }
    if arm == "mamba":
        return config | {
            "model_type": "mamba",
            "num_hidden_layers": task.mamba_layers,
            "state_size": task.states,
        }
    return config | {
        "model_type": "llama",
        "num_hidden_layers": task.attention_layers,
        "intermediate_size": task.hidden,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "max_position_embeddings": _LONGEST,
    }


def trained_decoder(trial: "Trial", arm: Arm, task: Task) -> "TorchDecoder":
    """Train a decoder from first values, or read it; in the ablation it has no selection."""
    from yearling.systems.tiny_bases import Training, fit

    config = decoder_config(arm, task)
    decoder = small_decoder(config, trial.seed, task.std)
    if arm == "mamba":
        shorten_steps(decoder, task.step_share)
    if trial.is_ablated:
        fix_selection(decoder)
    lr = task.mamba_lr if arm == "mamba" else task.attention_lr
    training = Training(task.steps, lr, task.schedule, seed=trial.seed)
    settings = {
        "task": asdict(task),
        "config": config,
        "training": asdict(training),
        "is_fixed": trial.is_ablated,
        "modules": ["systems.mamba_decoders", "models.families.mamba", "models.families.llama"],
    }
    draw = _DRAWS[task.name]

    def train() -> None:
        fit(decoder, lambda step: draw(trial.seed, step / task.steps, step), training, trial.say)

    train_or_read(decoder, f"{task.name}-{arm}-{trial.seed}", settings, train, trial.say)
    return decoder


def held_out_text() -> "Tensor":
    """Give sources that no decoder was trained on."""
    return library_text(_HELD_OUT)


def _draw_copying(seed: int, share: float, step: int) -> "Rows":
    """Symbols in longer and longer noise."""
    _, length, rows = max(stage for stage in _LONGER_NOISE if stage[0] <= share)
    return copying_rows(np.random.default_rng([seed, step]), rows, length, NUM_SYMBOLS)


def _draw_induction(seed: int, share: float, step: int) -> "Rows":
    random = np.random.default_rng([seed, step])
    num_questions = int(random.integers(1, _MOST_QUESTIONS + 1))
    return induction_rows(random, _INDUCTION_ROWS, _INDUCTION_LENGTH, num_questions)


def _draw_sources(seed: int, share: float, step: int) -> "Rows":
    import torch

    from yearling.systems.tiny_bases import windows_of

    text = _trained_text()
    generator = torch.Generator().manual_seed(1_000_003 * seed + step)
    starts = torch.randint(len(text) - WINDOW, (_WINDOWS,), generator=generator)
    return windows_of(text, WINDOW, starts)


@cache
def _trained_text() -> "Tensor":
    return library_text(_TRAINED)


_DRAWS: dict[str, "Callable[[int, float, int], Rows]"] = {
    "copying": _draw_copying,
    "induction": _draw_induction,
    "sources": _draw_sources,
}
"""Rows of a step, by seed, share of steps done and number of the step."""
