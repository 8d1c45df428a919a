"""Text that goes on after other ids, and ids with spans of loss."""

import pytest

from yearling.data.row_error import RowError
from yearling.data.sequences import encode_going_on, masked_sequence
from yearling.models.tokenizer import Tokenizer


def _sentencepiece(*, adds_space: bool) -> Tokenizer:
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "a", "▁a"]
    return Tokenizer.from_gguf(
        {
            "tokenizer.ggml.model": "llama",
            "tokenizer.ggml.tokens": tokens,
            "tokenizer.ggml.scores": [0.0] * len(tokens),
            "tokenizer.ggml.token_type": [2, 3, 3, *[6] * 256, 1, 1, 1],
            "tokenizer.ggml.bos_token_id": 1,
            "tokenizer.ggml.eos_token_id": 2,
            "tokenizer.ggml.unknown_token_id": 0,
            "tokenizer.ggml.add_space_prefix": adds_space,
        }
    )


@pytest.mark.parametrize("adds_space", [True, False])
def test_text_goes_on_without_a_space_put_before_it(adds_space: bool) -> None:
    tokenizer = _sentencepiece(adds_space=adds_space)
    (joined,) = tokenizer.encode("a") if adds_space else tokenizer.encode(" a")
    (bare,) = encode_going_on(tokenizer, ["a"])
    assert bare != joined
    assert encode_going_on(tokenizer, [" a", 2]) == [joined, 2]
    assert encode_going_on(tokenizer, [2, "a"])[0] == 2
    assert encode_going_on(tokenizer, []) == []


def test_spans_have_loss_and_the_first_token_never() -> None:
    sequence = masked_sequence([5, 6, 7, 8], [(0, 2), (3, 4)], num_prompt=1)
    assert sequence.has_loss.tolist() == [False, True, False, True]
    assert (sequence.num_labels, sequence.num_prompt) == (2, 1)


@pytest.mark.parametrize("spans", [[], [(0, 1)], [(2, 2)]])
def test_sequence_without_loss_is_an_error(spans: list[tuple[int, int]]) -> None:
    with pytest.raises(RowError, match="nothing to learn: no token has loss"):
        masked_sequence([5, 6, 7], spans)
