"""Pretraining: no token of a document is lost, and every one is learned exactly once."""

import numpy as np
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
from yearling.data.encoded import EncodedSequence
from yearling.data.examples import Document
from yearling.data.lengths import cut_into_blocks
from yearling.models.torch_decoder import Segments, TorchDecoder
from yearling.training.batch import pack_rows
from yearling.training.methods.pretrain import PretrainConfig, method


@pytest.mark.parametrize("count", [2, 3, 4, 5, 7, 8, 9, 100])
@pytest.mark.parametrize("length", [2, 3, 4, 50])
def test_blocks_learn_every_token_but_the_first_exactly_once(count: int, length: int) -> None:
    whole = sequence(list(range(count)))
    blocks = cut_into_blocks(whole, length)
    learned = np.concatenate([block.tokens[block.has_loss] for block in blocks])
    assert learned.tolist() == list(range(1, count))
    assert all(2 <= len(block.tokens) <= length for block in blocks)
    assert not any(block.has_loss[0] for block in blocks)


def test_a_single_token_has_nothing_to_learn() -> None:
    assert cut_into_blocks(sequence([5]), 4) == []


def test_blocks_keep_the_mask_of_what_they_cut() -> None:
    blocks = cut_into_blocks(sequence([0, 1, 2, 3, 4, 5], prompt=4), 4)
    assert [block.has_loss.tolist() for block in blocks] == [[False] * 4, [False, True, True]]


def test_documents_end_with_the_end_token() -> None:
    renderer = character_renderer()
    rows = method.encode(HERE, Document("abcdefg"), renderer, PretrainConfig(length=4))
    texts = [
        renderer.tokenizer.decode(encoded.sequences[0].tokens.tolist(), skip_special=False)
        for encoded in rows
    ]
    assert texts == ["abcd", "defg", "g<|end|>"]


def test_token_behind_a_cut_is_learned_too() -> None:
    """A long document in blocks that share no token would never learn what begins a block."""
    ids = list(range(12))

    def cut_apart(whole: EncodedSequence, length: int) -> list[EncodedSequence]:
        starts = range(0, len(whole.tokens), length)
        return [sequence(whole.tokens[start : start + length].tolist()) for start in starts]

    def right_at_the_cut(blocks: list[EncodedSequence]) -> bool:
        model = tiny_decoder()
        batch = pack_rows([row(block) for block in blocks])
        learn(method.objective(PretrainConfig(), begin(model)), [batch], steps=60, lr=0.01)
        # Alone, as no block began there: what follows 5, the last token of the cut-off block?
        return _follows(model, [5]) == 6

    assert right_at_the_cut(cut_into_blocks(sequence(ids), 6))
    assert not right_at_the_cut(cut_apart(sequence(ids), 6))


def test_weight_is_the_number_of_learned_tokens() -> None:
    (update,) = method.objective(PretrainConfig(), begin(tiny_decoder())).updates
    batch = pack_rows([row(sequence([1, 2, 3])), row(sequence([4, 5]))])
    assert update.weight(batch) == 3
    losses = [update.loss(pack_rows([r])).total for r in (row(sequence([1, 2, 3])),)]
    losses.append(update.loss(pack_rows([row(sequence([4, 5]))])).total)
    assert update.loss(batch).total.item() == pytest.approx(sum(losses).item(), rel=1e-5)


def _follows(model: TorchDecoder, ids: list[int]) -> int:
    with torch.no_grad():
        hidden = model(torch.tensor(ids), Segments([len(ids)]))
        return int(model.logits(hidden[-1:]).argmax())
