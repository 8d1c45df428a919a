"""Supervised fine-tuning: what it counts, and that it learns answers and no prompts."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.training.methods.tiny_models import (
    HERE,
    begin,
    character_renderer,
    learn,
    row,
    sequence,
    tiny_decoder,
)
from yearling.core.messages import parse_messages
from yearling.data.encoded import EncodedRow
from yearling.data.examples import Continuation, Conversation, Turn
from yearling.data.row_error import RowError
from yearling.models.torch_decoder import Segments, TorchDecoder
from yearling.training.batch import pack_rows
from yearling.training.methods.sft import SftConfig, method

_TEMPLATE = (
    "{% for m in messages %}{{ m.role[0] }}:{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}a:{% endif %}"
)
_FORGETFUL = (  # past answers are left out
    "{% for m in messages %}{% if m.role == 'user' or loop.last %}{{ m.role[0] }}:{{ m.content }}"
    "<|end|>{% endif %}{% endfor %}{% if add_generation_prompt %}a:{% endif %}"
)


def _turns(*texts: str) -> Conversation:
    roles = ("user", "assistant") * len(texts)
    messages = parse_messages(
        [{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)]
    )
    return Conversation(tuple(Turn(m, m.role == "assistant") for m in messages))


def _mean_loss(model: TorchDecoder, ids: list[int], rows: slice) -> float:
    """Mean loss of predicting some of the tokens."""
    with torch.no_grad():
        tokens = torch.tensor(ids)
        logits = model.logits(model(tokens, Segments([len(ids)])))
        losses = F.cross_entropy(logits[:-1], tokens[1:], reduction="none")
    return float(losses[rows].mean())


def test_loss_is_the_sum_over_labelled_tokens_of_rows_that_stand_alone() -> None:
    model = tiny_decoder()
    texts = [([3, 1, 4, 1, 5, 9], 3), ([2, 6, 5], 1)]
    batch = pack_rows([row(sequence(ids, prompt=prompt)) for ids, prompt in texts])
    (update,) = method.objective(SftConfig(), begin(model)).updates
    by_hand = sum(
        _mean_loss(model, ids, slice(prompt - 1, None)) * (len(ids) - prompt)
        for ids, prompt in texts
    )
    assert update.loss(batch).total.item() == pytest.approx(by_hand, rel=1e-5)
    assert update.weight(batch) == 3 + 2


def test_answers_are_learned_and_prompts_are_not() -> None:
    generator = np.random.default_rng(1)
    rows = [generator.integers(0, 64, 12).tolist() for _ in range(6)]
    answers, prompts = slice(7, None), slice(0, 7)

    def losses_after_training(*, prompt: int) -> tuple[float, float]:
        model = tiny_decoder(seed=3)
        batch = pack_rows([row(sequence(ids, prompt=prompt)) for ids in rows])
        learn(method.objective(SftConfig(), begin(model)), [batch], steps=60, lr=0.01)
        parts = [[_mean_loss(model, ids, part) for ids in rows] for part in (answers, prompts)]
        return float(np.mean(parts[0])), float(np.mean(parts[1]))

    answer, question = losses_after_training(prompt=8)
    assert answer < 0.1
    assert question > 4.0  # ln 64 = 4.2 is knowing nothing
    _, unmasked_question = losses_after_training(prompt=1)
    assert unmasked_question < 2.0


def test_conversations_and_completions_are_encoded_by_the_renderer() -> None:
    renderer = character_renderer(template=_TEMPLATE)
    for example in (_turns("hi", "yes"), Continuation("2+2=", "4")):
        (encoded,) = method.encode(HERE, example, renderer, SftConfig())
        expected = renderer.encode(HERE, example)
        assert encoded.sequences[0].tokens.tolist() == expected.sequences[0].tokens.tolist()
        assert encoded.num_labels == expected.num_labels > 0


def test_answers_apart_train_templates_that_rewrite_the_past() -> None:
    renderer = character_renderer(template=_FORGETFUL)
    talk = _turns("a", "one", "b", "two")
    with pytest.raises(RowError, match=r"^rows.jsonl:1: template rewrites"):
        method.encode(HERE, talk, renderer, SftConfig())
    rows = method.encode(HERE, talk, renderer, SftConfig(use_separate_answers=True))
    learned = [_learned_text(encoded, renderer.tokenizer.decode) for encoded in rows]
    assert learned == ["one", "two"]


def test_answers_apart_name_the_row_that_has_none() -> None:
    renderer = character_renderer(template=_TEMPLATE)
    talk = _turns("a", "one")
    silent = replace(talk, turns=tuple(replace(turn, has_loss=False) for turn in talk.turns))
    with pytest.raises(RowError, match=r"^rows.jsonl:1: nothing to learn"):
        method.encode(HERE, silent, renderer, SftConfig(use_separate_answers=True))


def _learned_text(encoded: EncodedRow, decode: object) -> str:
    assert callable(decode)
    (only,) = encoded.sequences
    return str(decode(only.tokens[only.has_loss].tolist()))


def test_frozen_parameters_are_not_trained() -> None:
    model = tiny_decoder()
    model.requires_grad_(False)
    head = model.get_submodule("lm_head")
    head.requires_grad_(True)
    (update,) = method.objective(SftConfig(), begin(model)).updates
    assert list(update.parameters) == ["lm_head.weight"]


def test_head_computes_labelled_rows_alone() -> None:
    model = tiny_decoder()
    seen: list[int] = []
    model.get_submodule("lm_head").register_forward_hook(
        lambda _, inputs, __: seen.append(len(inputs[0]))
    )
    batch = pack_rows([row(sequence([1, 2, 3, 4, 5, 6], prompt=4))])
    (update,) = method.objective(SftConfig(), begin(model)).updates
    update.loss(batch)
    assert seen == [2]
