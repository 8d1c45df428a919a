"""Tasks that ask a sequence model to choose what it keeps, and small decoders to learn them.

Selective copying scatters symbols among noise and asks for them in order; induction heads asks
for what followed the one special token. A recurrence that treats all inputs alike can do neither
well: it cannot know what is noise before the noise has faded what came earlier.

Source: Gu and Dao 2023, arXiv:2312.00752, section 4.1; Arjovsky et al. 2016, arXiv:1511.06464;
Olsson et al. 2022, arXiv:2209.11895.

Legend: n sequences, L tokens of one.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from yearling.models.torch_decoder import TorchDecoder
    from yearling.systems.tiny_bases import Rows

__all__ = [
    "COPYING_VOCABULARY",
    "INDUCTION_VOCABULARY",
    "copying_rows",
    "fix_selection",
    "induction_rows",
    "percent_right",
    "shorten_steps",
    "small_decoder",
]

INDUCTION_VOCABULARY = 16
"""Ids of induction heads: the special one, 0, and those it may be followed by."""

_NUM_SYMBOLS = 8
_NOISE, _ASK = _NUM_SYMBOLS, _NUM_SYMBOLS + 1
COPYING_VOCABULARY = _NUM_SYMBOLS + 2
"""Ids of selective copying: the symbols, then noise, then the question."""

_TOKENS_AT_ONCE = 1 << 15


# --- samples -----------------------------------------------------------------------------------


def induction_rows(
    random: np.random.Generator, count: int, length: int, num_questions: int = 1
) -> "Rows":
    """Draw random ids, in which one special id is always followed by the same id.

    The special id comes once without a label; then each time, the last token at the end among
    them, what followed is the answer.

    Args:
        count: Sequences.
        length: Tokens of each.
        num_questions: Times that the special id comes again.
    """
    tokens = random.integers(1, INDUCTION_VOCABULARY, (count, length))
    answers = random.integers(1, INDUCTION_VOCABULARY, count)
    labels = np.full((count, length), -1)
    for row, answer in enumerate(answers):
        # Every second place, so that the special id and what follows never overlap.
        places = 2 * np.sort(random.choice((length - 1) // 2, num_questions, replace=False))
        tokens[row, places], tokens[row, places + 1] = 0, answer
        labels[row, places[1:]] = answer
    tokens[:, -1], labels[:, -1] = 0, answers
    return _rows(tokens, labels)


def copying_rows(random: np.random.Generator, count: int, length: int, num_symbols: int) -> "Rows":
    """Draw symbols at random places among noise, and ask for all of them, in order.

    Args:
        count: Sequences.
        length: Tokens of each before the questions, which are as many as the symbols.
        num_symbols: Symbols of each.
    """
    symbols = random.integers(0, _NUM_SYMBOLS, (count, num_symbols))
    tokens = np.full((count, length + num_symbols), _NOISE)
    tokens[:, length:] = _ASK
    for row, drawn in enumerate(symbols):
        tokens[row, np.sort(random.choice(length, num_symbols, replace=False))] = drawn
    labels = np.full_like(tokens, -1)
    labels[:, length:] = symbols
    return _rows(tokens, labels)


def _rows(tokens: NDArray[np.int64], labels: NDArray[np.int64]) -> "Rows":
    import torch

    from yearling.models.torch_decoder import NO_LABEL
    from yearling.systems.tiny_bases import Rows

    named = np.where(labels < 0, NO_LABEL, labels)
    return Rows(torch.from_numpy(tokens), torch.from_numpy(named))


# --- decoders ----------------------------------------------------------------------------------


def small_decoder(config: Mapping[str, Any], seed: int, std: float) -> "TorchDecoder":
    """Make a decoder of any family with first values.

    Args:
        config: Its config.json.
        seed: Of the values.
        std: Standard deviation of matrices.
    """
    from yearling.models.families import family_of_model_type
    from yearling.models.fields import Fields
    from yearling.models.torch_decoder import TorchDecoder, initialise

    family = family_of_model_type(config["model_type"])
    spec = family.spec_from_config(Fields(dict(config), "the small decoder"))
    decoder = TorchDecoder(spec, family, device="cpu")
    initialise(decoder, seed=seed, std=std)
    return decoder


def fix_selection(decoder: "TorchDecoder") -> None:
    """Make the step, B and C of every layer the same for all tokens; they are learned still.

    In the place of the token's channels their projection gets a learned vector, so the decoder
    has as many weights as before, and a few more.
    """
    import torch
    from torch import Tensor, nn

    from yearling.models.spec import StateSpace

    class FixedInput(nn.Module):
        """A projection of a learned vector, whatever the rows."""

        def __init__(self, projection: nn.Module, num_inputs: int) -> None:
            super().__init__()
            self.projection = projection
            self.input = nn.Parameter(torch.ones(num_inputs))

        def forward(self, rows: Tensor) -> Tensor:
            projected: Tensor = self.projection(self.input[None])
            return projected.expand(len(rows), -1)

    for layer, spec in zip(decoder.iterate_layers(), decoder.spec.layers, strict=True):
        assert isinstance(spec.mixer, StateSpace), "attention has no selection to fix"
        mixer = layer.get_submodule("mixer")
        mixer.x_proj = FixedInput(mixer.get_submodule("x_proj"), spec.mixer.inner)


def shorten_steps(decoder: "TorchDecoder", share: float) -> None:
    """Make the time steps that a decoder begins with shorter, so that it forgets more slowly.

    Args:
        share: Of a step that is left.
    """
    import torch
    from torch.nn.functional import softplus

    with torch.no_grad():
        for layer in decoder.iterate_layers():
            bias = layer.get_submodule("mixer").get_submodule("dt_proj").get_parameter("bias")
            step = softplus(bias) * share
            bias.copy_(step + torch.log(-torch.expm1(-step)))  # what softplus turns into the step


def percent_right(decoder: "TorchDecoder", rows: "Rows") -> float:
    """Give the share of labelled tokens whose label has the largest logit, in %."""
    import torch

    from yearling.models.torch_decoder import NO_LABEL, Segments

    count, length = rows.tokens.shape
    at_once = max(1, _TOKENS_AT_ONCE // length)
    is_right = []
    decoder.eval()
    for first in range(0, count, at_once):
        tokens = rows.tokens[first : first + at_once]
        labels = rows.labels[first : first + at_once].reshape(-1)
        with torch.no_grad():
            hidden = decoder(tokens.reshape(-1), Segments([length] * len(tokens)))
            is_labelled = labels != NO_LABEL
            found = decoder.logits(hidden[is_labelled]).argmax(1)
        is_right.append(found == labels[is_labelled])
    return 100.0 * torch.cat(is_right).float().mean().item()
