"""Rows as a person reads them: every token in its text, those with loss marked.

With colour, tokens with loss are green and alternate in brightness, so that borders between
tokens show. Without, `⟦` and `⟧` stand around each run of tokens with loss and `|` parts tokens.
"""

from collections.abc import Iterator
from itertools import groupby

from yearling.core.log import escape_controls
from yearling.data.encoded import EncodedRow, EncodedSequence
from yearling.models.tokenizer import Tokenizer

__all__ = ["row_lines", "sequence_text"]

_PARTS = {1: ("",), 2: ("chosen", "rejected")}
_LEARNED = ("\x1b[32m", "\x1b[92m")
_READ = ("\x1b[2m", "\x1b[0m")
_RESET = "\x1b[0m"


def row_lines(
    row: EncodedRow, tokenizer: Tokenizer, *, has_mask: bool, has_colour: bool
) -> Iterator[str]:
    """Write a row: a line of counts, then the text of each sequence.

    Args:
        row: The row.
        tokenizer: The one its tokens are of.
        has_mask: Whether tokens and their loss are shown, rather than the text alone.
        has_colour: Whether the terminal shows colour.
    """
    yield f"{escape_controls(str(row.id))}  {row.num_tokens} tokens, {row.num_labels} with loss"
    parts = _PARTS.get(len(row.sequences), tuple(map(str, range(1, len(row.sequences) + 1))))
    for part, sequence in zip(parts, row.sequences, strict=True):
        if part:
            yield f"{part}: {len(sequence.tokens)} tokens, {sequence.num_labels} with loss"
        if has_mask:
            text = sequence_text(sequence, tokenizer, has_colour=has_colour)
        else:
            text = _visible(tokenizer.decode(sequence.tokens.tolist(), skip_special=False))
        yield text.removesuffix("\n")


def sequence_text(sequence: EncodedSequence, tokenizer: Tokenizer, *, has_colour: bool) -> str:
    """Write the tokens of a sequence with those marked that carry loss."""
    pieces = _pieces([int(token) for token in sequence.tokens], tokenizer)
    marked = zip(pieces, sequence.has_loss.tolist(), strict=True)
    if has_colour:
        return _coloured(list(marked))
    runs = (
        (has_loss, [_visible(piece) for piece, _ in group])
        for has_loss, group in groupby(marked, key=lambda pair: pair[1])
    )
    return "".join(f"⟦{'|'.join(run)}⟧" if has_loss else "".join(run) for has_loss, run in runs)


def _pieces(tokens: list[int], tokenizer: Tokenizer) -> list[str]:
    """The text of each token; a character of several tokens shows at the last of them."""
    pieces: list[str] = []
    held = b""
    for number, token in enumerate(tokens):
        held += tokenizer.token_bytes(token)
        is_last = number == len(tokens) - 1
        if _is_cut(held) and not is_last:
            pieces.append("")
            continue
        pieces.append(held.decode(errors="replace"))
        held = b""
    return pieces


def _is_cut(text: bytes) -> bool:
    """Whether bytes end inside a character that more bytes could complete."""
    try:
        text.decode()
    except UnicodeDecodeError as error:
        return error.reason == "unexpected end of data"
    return False


def _coloured(marked: list[tuple[str, bool]]) -> str:
    text = []
    for number, (piece, has_loss) in enumerate(marked):
        colour = (_LEARNED if has_loss else _READ)[number % 2 if has_loss else 0]
        text.append(f"{colour}{_visible(piece)}{_RESET}")
    return "".join(text)


def _visible(text: str) -> str:
    """Keep line breaks and tabs; what could drive the terminal is written out."""
    return "\n".join(escape_controls(line) for line in text.split("\n"))
