"""Fill in the middle: nothing is lost in rearranging, and the middle is learned from behind."""

import numpy as np
import pytest
import torch

from tests.training.methods.tiny_models import (
    begin,
    character_renderer,
    learn,
    tiny_decoder,
)
from yearling.core.errors import TrainingError
from yearling.data.encoded import EncodedRow
from yearling.data.examples import Document
from yearling.data.render import Renderer
from yearling.data.rows import RowId
from yearling.models.torch_decoder import Segments, TorchDecoder
from yearling.training.batch import pack_rows
from yearling.training.methods.fill_in_the_middle import (
    FillInTheMiddleConfig,
    InfillingTokens,
    cut_text,
    method,
)

_STARCODER = ("<fim_prefix>", "<fim_suffix>", "<fim_middle>")
_CODE_LLAMA = ("▁<PRE>", "▁<SUF>", "▁<MID>", "▁<EOT>")


def _encode(text: str, renderer: Renderer, number: int = 1, **options: object) -> list[EncodedRow]:
    config = FillInTheMiddleConfig.model_validate(options)
    return [*method.encode(RowId("code.jsonl", number), Document(text), renderer, config)]


def _text(encoded: EncodedRow, renderer: Renderer) -> str:
    (only,) = encoded.sequences
    return renderer.tokenizer.decode(only.tokens.tolist(), skip_special=False)


@pytest.mark.parametrize("control", [_STARCODER, _CODE_LLAMA], ids=["starcoder", "code_llama"])
@pytest.mark.parametrize("number", range(1, 9))
def test_prefix_suffix_middle_hold_the_whole_text(control: tuple[str, ...], number: int) -> None:
    renderer = character_renderer(control)
    before, behind, between = control[:3]
    end = "▁<EOT>" if control is _CODE_LLAMA else "<|end|>"
    (encoded,) = _encode("x=f(y)+1", renderer, number, fim_rate=1, spm_rate=0)
    text = _text(encoded, renderer)
    prefix, rest = text.removeprefix(before).split(behind)
    suffix, middle = rest.removesuffix(end).split(between)
    assert prefix + middle + suffix == "x=f(y)+1"
    assert text.startswith(before)
    assert text.endswith(end)


@pytest.mark.parametrize("number", range(1, 9))
def test_suffix_comes_first_in_the_other_order(number: int) -> None:
    renderer = character_renderer(_STARCODER)
    (encoded,) = _encode("x=f(y)+1", renderer, number, fim_rate=1, spm_rate=1)
    text = _text(encoded, renderer)
    assert text.startswith("<fim_prefix><fim_suffix>")
    suffix, rest = text.removeprefix("<fim_prefix><fim_suffix>").split("<fim_middle>")
    assert rest.removesuffix("<|end|>") + suffix == "x=f(y)+1"


def test_rates_are_kept_and_cuts_are_the_rows_own() -> None:
    renderer = character_renderer(_STARCODER)
    rows = [
        _text(_encode("abcdefgh", renderer, number, fim_rate=0.5, spm_rate=0.25)[0], renderer)
        for number in range(400)
    ]
    rearranged = [text for text in rows if "<fim_prefix>" in text]
    suffix_first = [text for text in rearranged if text.startswith("<fim_prefix><fim_suffix>")]
    assert 150 < len(rearranged) < 250
    # An empty prefix looks like it as well: 1 in 5 or so.
    assert 0.2 < len(suffix_first) / len(rearranged) < 0.6
    assert all(text == "abcdefgh<|end|>" for text in rows if text not in rearranged)
    assert len(set(rows)) > 30
    again = _text(_encode("abcdefgh", renderer, 7, fim_rate=0.5, spm_rate=0.25)[0], renderer)
    assert again == rows[7]
    other = [_text(_encode("abcdefgh", renderer, n, seed=1)[0], renderer) for n in range(20)]
    assert other != rows[:20]


def test_every_token_is_learned_but_the_first() -> None:
    renderer = character_renderer(_STARCODER)
    (encoded,) = _encode("abc", renderer, fim_rate=1)
    (only,) = encoded.sequences
    assert only.has_loss.tolist() == [False] + [True] * (len(only.tokens) - 1)


def test_long_documents_are_cut_at_lines_before_they_are_rearranged() -> None:
    renderer = character_renderer(_STARCODER)
    text = "".join(f"line{number}\n" for number in range(40))
    rows = _encode(text, renderer, fim_rate=1, length=64)
    assert all(encoded.num_tokens <= 64 for encoded in rows)
    assert len(rows) > 4
    pieces = cut_text(text, renderer, 50)
    assert "".join(pieces) == text
    assert all(piece.endswith("\n") and len(piece) <= 50 for piece in pieces)


def test_long_lines_lose_no_character() -> None:
    renderer = character_renderer(_STARCODER)
    pieces = cut_text("x" * 333, renderer, 50)
    assert "".join(pieces) == "x" * 333
    assert max(map(len, pieces)) <= 50


def test_missing_tokens_are_named() -> None:
    with pytest.raises(
        TrainingError, match=r"no infilling tokens\..*<fim_prefix>[^!]*method.tokens"
    ):
        _encode("abc", character_renderer())
    wanted = InfillingTokens(prefix="<fim_prefix>", suffix="<SUF>", middle="<MID>")
    with pytest.raises(TrainingError, match=r"the tokenizer misses <SUF>, <MID>\."):
        _encode("abc", character_renderer(_STARCODER), tokens=wanted)


def test_any_control_tokens_can_be_lent() -> None:
    renderer = character_renderer(("<one>", "<two>", "<three>"))
    wanted = InfillingTokens(prefix="<one>", suffix="<two>", middle="<three>")
    (encoded,) = _encode("abc", renderer, fim_rate=1, tokens=wanted)
    assert _text(encoded, renderer).startswith("<one>")


def test_text_of_a_control_token_in_a_document_stays_text() -> None:
    renderer = character_renderer(_STARCODER)
    for number in range(8):
        (encoded,) = _encode("a<fim_middle>b", renderer, number, fim_rate=1)
        ids = encoded.sequences[0].tokens
        assert int(np.isin(ids, [1, 2, 3]).sum()) == 3


def _middles_right(fim_rate: float) -> int:
    """Train on `aXbX` for six X, then ask for the first X with the second in sight."""
    renderer = character_renderer(_STARCODER)
    model = tiny_decoder(renderer.tokenizer.vocabulary_size)
    rows = [
        encoded
        for digit in "012345"
        for number in range(12)
        for encoded in _encode(
            f"a{digit}b{digit}", renderer, number, fim_rate=fim_rate, spm_rate=0.3
        )
    ]
    objective = method.objective(FillInTheMiddleConfig(), begin(model))
    learn(objective, [pack_rows(rows)], steps=60, lr=0.01)
    return sum(_filled(model, renderer, digit) == digit for digit in "012345")


def _filled(model: TorchDecoder, renderer: Renderer, digit: str) -> str:
    ids = renderer.tokenizer.encode_parts([1, "a", 2, f"b{digit}", 3])
    with torch.no_grad():
        hidden = model(torch.tensor(ids), Segments([len(ids)]))
        return renderer.tokenizer.decode([int(model.logits(hidden[-1:]).argmax())])


def test_middle_is_written_by_what_stands_behind_it() -> None:
    assert _middles_right(fim_rate=1.0) >= 5
    assert _middles_right(fim_rate=0.0) <= 2
