"""Text comes whole, in order, and never takes anything back."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yearling.serving.detokenizer import Detokenizer, Pieces


class PieceTokenizer:
    """Ids are positions in a list of byte pieces; the last id is special."""

    def __init__(self, pieces: list[bytes]) -> None:
        self.pieces = pieces
        self.num_calls = 0

    def token_bytes(self, token: int) -> bytes:
        self.num_calls += 1
        return (*self.pieces, b"<end>")[token]

    def is_special(self, token: int) -> bool:
        return token == len(self.pieces)


def shown(pieces: list[bytes], stop: tuple[str, ...] = ()) -> tuple[list[str], bool]:
    """What each token shows, with what the end shows last."""
    detokenizer = Detokenizer(Pieces(PieceTokenizer(pieces)), stop)
    texts = [detokenizer.push(token) for token in range(len(pieces))]
    return [*texts, detokenizer.finish()], detokenizer.is_stopped


def cut(data: bytes, places: list[int]) -> list[bytes]:
    bounds = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[start:end] for start, end in pairwise(bounds)]


def expected(text: str, stop: tuple[str, ...]) -> str:
    """Text up to the stop string that is complete first, read letter by letter."""
    for end in range(len(text) + 1):
        hits = [string for string in stop if text[:end].endswith(string)]
        if hits:
            return text[: end - max(map(len, hits))]
    return text


@pytest.mark.parametrize("text", ["naïve", "汉字", "🙂🙃", "e\u0301", "\ufffd"])
def test_character_cut_at_every_byte_comes_whole(text: str) -> None:
    data = text.encode()
    for place in range(len(data) + 1):
        texts, _ = shown([data[:place], data[place:]])
        assert "".join(texts) == text
        assert all(piece in text for piece in texts)


@given(st.text(max_size=40), st.lists(st.integers(0, 200), max_size=20))
def test_any_text_cut_anywhere_comes_whole(text: str, places: list[int]) -> None:
    texts, _ = shown(cut(text.encode(), places))
    assert "".join(texts) == text


@given(st.binary(max_size=30), st.lists(st.integers(0, 200), max_size=10))
def test_any_bytes_decode_as_they_would_in_one_piece(data: bytes, places: list[int]) -> None:
    texts, _ = shown(cut(data, places))
    assert "".join(texts) == data.decode(errors="replace")


def test_unfinished_character_shows_only_at_the_end() -> None:
    assert shown([b"a", b"\xe6\xb1"]) == (["a", "", "\ufffd"], False)


def test_special_token_is_not_shown() -> None:
    detokenizer = Detokenizer(Pieces(PieceTokenizer([b"a"])))
    assert detokenizer.push(0) + detokenizer.push(1) + detokenizer.push(0) == "aa"


def test_tokenizer_is_asked_once_per_token() -> None:
    tokenizer = PieceTokenizer([b"a"])
    pieces = Pieces(tokenizer)
    assert [pieces[0] for _ in range(5)] == [b"a"] * 5
    assert tokenizer.num_calls == 1


def test_stop_string_across_tokens_is_never_shown() -> None:
    texts, is_stopped = shown([b"Hello", b"\nUs", b"er", b": more"], ("\nUser:",))
    assert (texts, is_stopped) == (["Hello", "", "", "", ""], True)


def test_text_that_only_began_like_a_stop_string_is_shown() -> None:
    texts, is_stopped = shown([b"a\nUs", b"age", b"\nU"], ("\nUser:",))
    assert (texts, is_stopped) == (["a", "\nUsage", "", "\nU"], False)


def test_stop_string_inside_one_token_cuts_it() -> None:
    assert shown([b"one STOP two"], ("STOP",)) == (["one ", ""], True)


def test_stop_string_that_is_complete_first_wins_inside_one_token_too() -> None:
    assert "".join(shown([b"xaby"], ("aby", "b"))[0]) == "xa"
    assert "".join(shown([b"xab", b"y"], ("aby", "b"))[0]) == "xa"


def test_nothing_follows_a_stop_string() -> None:
    detokenizer = Detokenizer(Pieces(PieceTokenizer([b"aXb", b"c"])), ("X",))
    assert [detokenizer.push(0), detokenizer.push(1), detokenizer.finish()] == ["a", "", ""]


@given(
    st.text(alphabet="ab汉", max_size=30),
    st.lists(st.text(alphabet="ab汉", min_size=1, max_size=5), min_size=1, max_size=3).map(tuple),
    st.lists(st.integers(0, 100), max_size=30),
)
def test_stop_strings_do_not_depend_on_how_tokens_cut_the_text(
    text: str, stop: tuple[str, ...], places: list[int]
) -> None:
    texts, is_stopped = shown(cut(text.encode(), places), stop)
    assert "".join(texts) == expected(text, stop)
    assert is_stopped == any(string in text for string in stop)
