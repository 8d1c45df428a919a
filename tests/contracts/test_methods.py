"""What every registered training method promises."""

import importlib
import re

import numpy as np
import pytest
import torch

from tests.training.methods.tiny_models import HERE, begin, character_renderer, tiny_decoder
from yearling.core.config import load_config
from yearling.core.errors import ConfigError
from yearling.core.messages import parse_messages
from yearling.data.examples import (
    Continuation,
    Conversation,
    Document,
    Example,
    ExampleKind,
    Preference,
    Turn,
)
from yearling.training.batch import pack_rows
from yearling.training.method import methods

_CONTROL = ("<fim_prefix>", "<fim_suffix>", "<fim_middle>")
_TEMPLATE = (
    "{% for m in messages %}{{ m.role[0] }}:{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}a:{% endif %}"
)
_ASK, _GOOD, _BAD = parse_messages(
    [
        {"role": "user", "content": "2+2"},
        {"role": "assistant", "content": "4"},
        {"role": "assistant", "content": "five"},
    ]
)
_EXAMPLES: dict[ExampleKind, Example] = {
    "conversation": Conversation((Turn(_ASK, False), Turn(_GOOD, True))),
    "continuation": Continuation("2+2=", "4"),
    "document": Document("def add(a, b):\n return a + b"),
    "preference": Preference((_ASK,), (_GOOD,), (_BAD,)),
}


@pytest.mark.parametrize("name", methods.names())
def test_header_says_whose_it_is_and_when_to_use_it(name: str) -> None:
    method = methods.get(name)
    header = importlib.import_module(f"yearling.training.methods.{name}").__doc__ or ""
    assert re.search(r"^Source: .*\d{4}", header, re.MULTILINE)
    assert "To be used" in header
    assert method.summary.endswith(".")
    assert re.search(r"(19|20)\d\d", method.source)


@pytest.mark.parametrize("name", methods.names())
def test_defaults_are_valid_and_unknown_options_are_named(name: str) -> None:
    config = methods.get(name).config
    assert config() == load_config(config)
    assert all(field.description for field in config.model_fields.values())
    with pytest.raises(ConfigError, match="nonsense is not a known key"):
        load_config(config, overrides=["nonsense=1"])


@pytest.mark.parametrize("name", methods.names())
def test_every_kind_becomes_sequences_that_can_be_learned(name: str) -> None:
    method = methods.get(name)
    renderer = character_renderer(_CONTROL, template=_TEMPLATE)
    assert method.kinds
    for kind in method.kinds:
        rows = method.encode(HERE, _EXAMPLES[kind], renderer, method.config())
        assert rows
        again = method.encode(HERE, _EXAMPLES[kind], renderer, method.config())
        for row, same in zip(rows, again, strict=True):
            assert row.id == HERE
            for sequence, twin in zip(row.sequences, same.sequences, strict=True):
                assert sequence.tokens.dtype == np.int32
                assert sequence.tokens.tolist() == twin.tokens.tolist()
                assert len(sequence.has_loss) == len(sequence.tokens)
                assert sequence.num_labels > 0
                assert not sequence.has_loss[0]


@pytest.mark.parametrize("name", methods.names())
def test_objective_gives_a_finite_loss_and_a_gradient(name: str) -> None:
    method = methods.get(name)
    renderer = character_renderer(_CONTROL, template=_TEMPLATE)
    model = tiny_decoder(renderer.tokenizer.vocabulary_size)
    objective = method.objective(method.config(), begin(model))
    rows = [
        row
        for kind in method.kinds
        for row in method.encode(HERE, _EXAMPLES[kind], renderer, method.config())
    ]
    batch = pack_rows(rows)
    for update in objective.updates:
        loss = update.loss(batch)
        assert torch.isfinite(loss.total)
        assert loss.total.dim() == 0
        assert all(np.isfinite(value) for value in loss.metrics.values())
        assert update.weight(batch) > 0
        loss.total.backward()
        lengths = [p.grad.norm() for p in update.parameters.values() if p.grad is not None]
        assert lengths
        assert all(torch.isfinite(length) for length in lengths)
        assert max(lengths) > 0


@pytest.mark.parametrize("name", methods.names())
def test_loss_of_rows_together_is_the_sum_of_the_rows(name: str) -> None:
    """So that micro-batches of any size give the same step."""
    method = methods.get(name)
    renderer = character_renderer(_CONTROL, template=_TEMPLATE)
    model = tiny_decoder(renderer.tokenizer.vocabulary_size)
    example = _EXAMPLES[method.kinds[0]]
    other = tiny_decoder(renderer.tokenizer.vocabulary_size, seed=9)
    objective = method.objective(method.config(), begin(model))
    with torch.no_grad():  # so that a method that measures against its start sees a difference
        for own, changed in zip(model.parameters(), other.parameters(), strict=True):
            own.lerp_(changed, 0.1)
    rows = [*method.encode(HERE, example, renderer, method.config())] * 3
    for update in objective.updates:
        apart = [update.loss(pack_rows([row])).total.item() for row in rows]
        assert update.loss(pack_rows(rows)).total.item() == pytest.approx(sum(apart), rel=1e-4)
