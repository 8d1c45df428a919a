"""Direct preference optimisation: its loss by hand, and that it turns a preference round."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

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
from yearling.data.examples import Preference
from yearling.models.torch_decoder import Segments, TorchDecoder
from yearling.training.batch import PackedBatch, pack_rows
from yearling.training.methods import dpo
from yearling.training.methods.dpo import (
    DpoConfig,
    dpo_loss,
    method,
    sequence_log_probabilities,
)

_TEMPLATE = (
    "{% for m in messages %}{{ m.role[0] }}:{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}a:{% endif %}"
)


def _pairs() -> PackedBatch:
    """Two pairs; each answer stands behind the same prompt as its rival."""
    chosen = [([1, 2, 3, 10, 11], 3), ([4, 5, 12], 2)]
    rejected = [([1, 2, 3, 20], 3), ([4, 5, 21, 22], 2)]
    return pack_rows(
        [
            row(sequence(better, prompt=start), sequence(worse, prompt=start))
            for (better, start), (worse, _) in zip(chosen, rejected, strict=True)
        ]
    )


def _log_probability(model: TorchDecoder, ids: list[int], prompt: int) -> float:
    """Of the answer, alone and token by token."""
    with torch.no_grad():
        logits = model.logits(model(torch.tensor(ids), Segments([len(ids)])))
    logged = logits.log_softmax(-1)
    return sum(float(logged[i - 1, ids[i]]) for i in range(prompt, len(ids)))


def test_loss_is_the_papers() -> None:
    policy, reference = torch.tensor([3.0, -1.0]), torch.tensor([1.0, 1.0])
    by_hand = [-math.log(1 / (1 + math.exp(-0.5 * advantage))) for advantage in (2.0, -2.0)]
    assert dpo_loss(policy, reference, beta=0.5).tolist() == pytest.approx(by_hand)


def test_smoothing_takes_a_share_of_pairs_the_wrong_way_round() -> None:
    policy, reference = torch.tensor([3.0]), torch.tensor([1.0])
    right = dpo_loss(policy, reference, beta=0.5)
    wrong = dpo_loss(-policy, -reference, beta=0.5)
    smoothed = dpo_loss(policy, reference, beta=0.5, label_smoothing=0.1)
    torch.testing.assert_close(smoothed, 0.9 * right + 0.1 * wrong)


def test_gradient_vanishes_where_the_preference_is_learned() -> None:
    margin = torch.tensor([0.0, 100.0], requires_grad=True)
    dpo_loss(margin, torch.zeros(2), beta=0.1).sum().backward()
    assert margin.grad is not None
    expected = [-0.1 * 0.5, -0.1 / (1 + math.exp(10))]  # -beta · sigmoid(-advantage)
    assert margin.grad.tolist() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(("beta", "smoothing"), [(0.0, 0.0), (-1.0, 0.0), (0.1, 0.5)])
def test_values_without_a_meaning_are_refused(beta: float, smoothing: float) -> None:
    with pytest.raises(ValueError, match=rf"beta={beta} .*label_smoothing={smoothing}"):
        dpo_loss(torch.zeros(1), torch.zeros(1), beta=beta, label_smoothing=smoothing)


def test_log_probabilities_are_those_of_sequences_alone() -> None:
    model = tiny_decoder()
    with torch.no_grad():
        packed = sequence_log_probabilities(model, _pairs())
    alone = [
        _log_probability(model, ids, prompt)
        for ids, prompt in (
            ([1, 2, 3, 10, 11], 3),
            ([1, 2, 3, 20], 3),
            ([4, 5, 12], 2),
            ([4, 5, 21, 22], 2),
        )
    ]
    assert packed.tolist() == pytest.approx(alone, rel=1e-4)


def test_training_begins_at_the_logarithm_of_two() -> None:
    (update,) = method.objective(DpoConfig(), begin(tiny_decoder())).updates
    result = update.loss(_pairs())
    assert result.total.item() == pytest.approx(2 * math.log(2), rel=1e-6)
    assert result.metrics["margin"] == pytest.approx(0, abs=1e-4)
    assert update.weight(_pairs()) == 2


def test_metrics_are_rewards_against_the_reference() -> None:
    model, other = tiny_decoder(seed=1), tiny_decoder(seed=2)

    @contextmanager
    def reference() -> Iterator[TorchDecoder]:
        yield other

    (update,) = method.objective(DpoConfig(beta=0.2), begin(model, reference)).updates
    result = update.loss(_pairs())
    with torch.no_grad():
        now = sequence_log_probabilities(model, _pairs())
        before = sequence_log_probabilities(other, _pairs())
    rewards = (0.2 * (now - before)).tolist()
    assert result.metrics == pytest.approx(
        {
            "accuracy": (rewards[0] > rewards[1]) + (rewards[2] > rewards[3]),
            "margin": rewards[0] - rewards[1] + rewards[2] - rewards[3],
            "reward_chosen": rewards[0] + rewards[2],
            "reward_rejected": rewards[1] + rewards[3],
        },
        rel=1e-4,
    )


def _margins_after_training(model: TorchDecoder, **options: object) -> tuple[list[float], float]:
    """Log-odds of each chosen answer over the rejected one, and the last loss of a pair."""
    start = begin(model, **options)  # type: ignore[arg-type]
    losses = learn(method.objective(DpoConfig(), start), [_pairs()], steps=20, lr=0.01)
    with torch.no_grad():
        now = sequence_log_probabilities(model, _pairs())
    return (now[0::2] - now[1::2]).tolist(), losses[-1]


def test_preference_turns_round_and_does_not_without_the_margin(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with torch.no_grad():
        before = sequence_log_probabilities(tiny_decoder(), _pairs())
    assert min((before[0::2] - before[1::2]).tolist()) < 0  # the model likes a rejected answer
    margins, loss = _margins_after_training(tiny_decoder())
    assert min(margins) > 0
    assert loss < 0.3

    def without_margin(policy: torch.Tensor, reference: torch.Tensor, **_: float) -> torch.Tensor:
        return dpo_loss(policy * 0, reference * 0, beta=0.1)

    monkeypatch.setattr(dpo, "dpo_loss", without_margin)
    margins, loss = _margins_after_training(tiny_decoder())
    assert min(margins) < 0
    assert loss == pytest.approx(math.log(2), rel=1e-6)


def test_reference_that_learns_along_shows_no_progress() -> None:
    model = tiny_decoder()

    @contextmanager
    def itself() -> Iterator[TorchDecoder]:
        yield model

    _, loss = _margins_after_training(model, reference=itself)
    assert loss == pytest.approx(math.log(2), rel=1e-5)


def test_reference_gets_no_gradient() -> None:
    model, other = tiny_decoder(seed=1), tiny_decoder(seed=2)

    @contextmanager
    def reference() -> Iterator[TorchDecoder]:
        yield other

    (update,) = method.objective(DpoConfig(), begin(model, reference)).updates
    update.loss(_pairs()).total.backward()
    assert all(parameter.grad is None for parameter in other.parameters())
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_preferences_become_two_sequences_behind_one_prompt() -> None:
    renderer = character_renderer(template=_TEMPLATE)
    example = Preference(
        parse_messages([{"role": "user", "content": "2+2"}]),
        parse_messages([{"role": "assistant", "content": "4"}]),
        parse_messages([{"role": "assistant", "content": "five"}]),
    )
    (encoded,) = method.encode(HERE, example, renderer, DpoConfig())
    decode = renderer.tokenizer.decode
    whole = [decode(s.tokens.tolist(), skip_special=False) for s in encoded.sequences]
    learned = [decode(s.tokens[s.has_loss].tolist(), skip_special=False) for s in encoded.sequences]
    assert whole == ["u:2+2<|end|>a:4<|end|>", "u:2+2<|end|>a:five<|end|>"]
    assert learned == ["4<|end|>", "five<|end|>"]
