"""A tiny LLaMA, a tokenizer of single characters, and the plainest loop that trains with them."""

import copy
import string
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

import numpy as np
import torch

from yearling.data.encoded import EncodedRow, EncodedSequence
from yearling.data.render import Renderer
from yearling.data.rows import RowId
from yearling.models.families import families
from yearling.models.fields import Fields
from yearling.models.tokenizer import Tokenizer
from yearling.models.torch_decoder import TorchDecoder, initialise
from yearling.training.batch import PackedBatch
from yearling.training.method import Start
from yearling.training.objective import Objective

HERE = RowId("rows.jsonl", 1)
_CONTROL = 3  # GGUF's token types
_NORMAL = 1


def tiny_decoder(vocabulary: int = 64, *, seed: int = 0, width: int = 32) -> TorchDecoder:
    """A LLaMA of two layers with random weights."""
    config = {
        "model_type": "llama",
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
    }
    family = families.get("llama")
    decoder = TorchDecoder(
        family.spec_from_config(Fields(config, "config.json")), family, device="cpu"
    )
    initialise(decoder, seed=seed, std=0.2)
    return decoder


def character_tokenizer(control: Sequence[str] = (), *, end: str = "<|end|>") -> Tokenizer:
    """A byte-level tokenizer without merges: a token is a control token or one character."""
    characters = [*string.ascii_letters, *string.digits, *string.punctuation, "Ġ", "Ċ"]
    special = [end, *control]
    return Tokenizer.from_gguf(
        {
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.pre": "smollm",
            "tokenizer.ggml.tokens": [*special, *characters],
            "tokenizer.ggml.token_type": [_CONTROL] * len(special) + [_NORMAL] * len(characters),
            "tokenizer.ggml.merges": [],
            "tokenizer.ggml.eos_token_id": 0,
        }
    )


def character_renderer(control: Sequence[str] = (), *, template: str | None = None) -> Renderer:
    """A renderer of such a tokenizer, with a chat template or none."""
    from yearling.models.chat_template import ChatTemplate

    tokenizer = character_tokenizer(control)
    chat = None if template is None else ChatTemplate(template, tokenizer)
    return Renderer(tokenizer, chat, [0], name="tiny")


def sequence(ids: Sequence[int], *, prompt: int = 1) -> EncodedSequence:
    """A sequence whose first tokens carry no loss."""
    has_loss = np.arange(len(ids)) >= max(1, prompt)
    return EncodedSequence(np.array(ids, np.int32), has_loss)


def row(*sequences: EncodedSequence) -> EncodedRow:
    return EncodedRow(HERE, sequences)


def begin(
    model: TorchDecoder,
    reference: Callable[[], AbstractContextManager[TorchDecoder]] | None = None,
) -> Start:
    """What a method is given; the reference is a copy of the model as it is now."""
    frozen = copy.deepcopy(model).requires_grad_(False)

    @contextmanager
    def copied() -> Iterator[TorchDecoder]:
        yield frozen

    return Start(model, reference or copied, 0)


def learn(
    objective: Objective[PackedBatch], batches: Sequence[PackedBatch], *, steps: int, lr: float
) -> list[float]:
    """Train on all batches at every step, and give the mean loss of each step."""
    (update,) = objective.updates
    optimizer = torch.optim.Adam(update.parameters.values(), lr=lr)
    weight = sum(update.weight(batch) for batch in batches)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        total = 0.0
        for batch in batches:
            loss = update.loss(batch).total / weight
            loss.backward()
            total += loss.item()
        optimizer.step()
        losses.append(total)
    return losses
