"""Selective copying and induction heads: what is asked, and what selection is for."""

import numpy as np
import pytest
import torch

from yearling.models.torch_decoder import NO_LABEL, Segments, TorchDecoder
from yearling.systems import selection_tasks
from yearling.systems.tiny_bases import Rows

NOISE, ASK = 8, 9
CONFIG = {
    "model_type": "mamba", "vocab_size": 10, "hidden_size": 16, "num_hidden_layers": 2,
    "state_size": 4,
}  # fmt: skip


def random() -> np.random.Generator:
    return np.random.default_rng(3)


def mamba() -> TorchDecoder:
    return selection_tasks.small_decoder(CONFIG, seed=0, std=0.3)


def logits(decoder: TorchDecoder, tokens: list[int]) -> torch.Tensor:
    decoder.eval()
    with torch.no_grad():
        return decoder.logits(decoder(torch.tensor(tokens), Segments([len(tokens)])))


@pytest.mark.parametrize("num_questions", [1, 4])
def test_what_followed_the_special_token_is_the_answer_wherever_it_is_asked(
    num_questions: int,
) -> None:
    rows = selection_tasks.induction_rows(random(), 20, 33, num_questions)
    for tokens, labels in zip(rows.tokens.tolist(), rows.labels.tolist(), strict=True):
        first, *asked = [place for place, token in enumerate(tokens) if token == 0]
        assert asked == [place for place, label in enumerate(labels) if label != NO_LABEL]
        assert len(asked) == num_questions
        assert asked[-1] == 32
        assert {labels[place] for place in asked} == {tokens[first + 1]}
        # All but the last question are followed by their answer.
        assert all(tokens[place + 1] == tokens[first + 1] for place in asked[:-1])


def test_symbols_are_asked_for_in_the_order_in_which_they_came() -> None:
    rows = selection_tasks.copying_rows(random(), 20, 30, 5)
    for tokens, labels in zip(rows.tokens.tolist(), rows.labels.tolist(), strict=True):
        assert tokens[30:] == [ASK] * 5
        assert [token for token in tokens[:30] if token != NOISE] == labels[30:]
        assert labels[:30] == [NO_LABEL] * 30


def test_symbols_may_stand_anywhere() -> None:
    rows = selection_tasks.copying_rows(random(), 400, 12, 3)
    assert ((rows.tokens[:, :12] != NOISE).sum(0) > 50).all()


def test_fixed_selection_treats_all_tokens_alike() -> None:
    """What the scan is told beside its input does not depend on the token."""
    decoder = mamba()
    selected = _told(decoder)
    selection_tasks.fix_selection(decoder)
    fixed = _told(decoder)
    assert np.ptp(selected) > 1e-3
    assert np.ptp(fixed) == 0


def _told(decoder: TorchDecoder) -> np.ndarray:
    """Give what the first layer's projection says of each of ten different tokens."""
    told = []
    layer = next(decoder.iterate_layers())
    projection = layer.get_submodule("mixer").get_submodule("x_proj")
    handle = projection.register_forward_hook(lambda *call: told.append(call[2]))
    logits(decoder, list(range(10)))
    handle.remove()
    assert told[0].shape[0] == 10
    return (told[0] - told[0][0]).numpy()


def test_fixed_selection_is_learned_still() -> None:
    decoder = mamba()
    before = sum(weight.numel() for weight in decoder.parameters())
    selection_tasks.fix_selection(decoder)
    assert sum(weight.numel() for weight in decoder.parameters()) == before + 2 * 32
    decoder(torch.tensor([1, 2, 3]), Segments([3])).sum().backward()
    assert all(weight.grad is not None for name, weight in decoder.named_parameters()
               if "x_proj" in name or "dt_proj" in name)  # fmt: skip


def test_shorter_steps_are_a_share_of_those_there_were() -> None:
    decoder = mamba()
    biases = [w for name, w in decoder.named_parameters() if name.endswith("dt_proj.bias")]
    before = [torch.nn.functional.softplus(bias.detach()) for bias in biases]
    selection_tasks.shorten_steps(decoder, 0.05)
    for bias, steps in zip(biases, before, strict=True):
        torch.testing.assert_close(torch.nn.functional.softplus(bias.detach()), 0.05 * steps)


def test_share_right_is_over_labelled_tokens_of_all_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = mamba()
    tokens = torch.randint(10, (5, 8), generator=torch.Generator().manual_seed(1))
    best = torch.stack([logits(decoder, row.tolist()).argmax(1) for row in tokens])
    labels = torch.full_like(tokens, NO_LABEL)
    labels[:, 6:] = best[:, 6:]
    labels[4, 7] = (best[4, 7] + 1) % 10
    for at_once in (1 << 15, 16, 1):
        monkeypatch.setattr(selection_tasks, "_TOKENS_AT_ONCE", at_once)
        assert selection_tasks.percent_right(decoder, Rows(tokens, labels)) == pytest.approx(90)
