"""Fill in the middle: teach a left-to-right model to write between what stands before and behind.

A share of the documents is cut at two random characters into prefix, middle and suffix, and
rearranged around control tokens, so that ordinary next-token training learns infilling; the rest
stays as it is, and left-to-right quality with it. In PSM order the model reads prefix, then suffix,
and writes the middle; in SPM order the suffix comes first and prefix and middle are one text, which
lets a server keep the cache of a prefix that grows. A document longer than a block is cut into
blocks first, so that no block holds only a part of its three. To be used for code models, on
documents, when the tokenizer has the control tokens (or can spare three); otherwise `pretrain`.

Source: Bavarian et al. 2022, arXiv:2207.14255, sections 3 and 3.1; Rozière et al. 2023 (Code
Llama), arXiv:2308.12950, section 2.3, whose SPM order this is.
"""

import random
from collections.abc import Sequence
from functools import lru_cache
from hashlib import sha256

import numpy as np
from pydantic import Field

from yearling.core.config import Config
from yearling.core.errors import ModelFormatError, TrainingError
from yearling.data.encoded import EncodedRow, EncodedSequence
from yearling.data.examples import Document, Example
from yearling.data.render import Renderer
from yearling.data.row_error import RowError
from yearling.data.rows import RowId
from yearling.models.tokenizer import Tokenizer
from yearling.models.torch_decoder import labelled_losses
from yearling.training.batch import PackedBatch
from yearling.training.method import Method, Start, methods
from yearling.training.objective import Loss, Objective, Update

__all__ = ["FillInTheMiddleConfig", "InfillingTokens", "arrange", "cut_text", "method"]


Control = tuple[int, int, int, int]
_SPARE_TOKENS = 10
"""The control tokens are four; cutting inside two tokens makes a few more of them."""


class InfillingTokens(Config):
    """Control tokens that head the three parts, by their text in the vocabulary."""

    prefix: str = Field(description="Stands before the prefix.")
    suffix: str = Field(description="Stands before the suffix.")
    middle: str = Field(description="Stands before what is to be written.")
    end: str | None = Field(
        default=None, description="Ends the middle; none takes the tokenizer's end token."
    )


_KNOWN = (
    # Code Llama
    InfillingTokens(prefix="▁<PRE>", suffix="▁<SUF>", middle="▁<MID>", end="▁<EOT>"),
    # StarCoder, StarCoder 2, Stable Code
    InfillingTokens(prefix="<fim_prefix>", suffix="<fim_suffix>", middle="<fim_middle>"),
    # SantaCoder
    InfillingTokens(prefix="<fim-prefix>", suffix="<fim-suffix>", middle="<fim-middle>"),
    # CodeGemma, Qwen2.5-Coder
    InfillingTokens(prefix="<|fim_prefix|>", suffix="<|fim_suffix|>", middle="<|fim_middle|>"),
    # DeepSeek Coder, whose tokens are named begin, hole and end
    InfillingTokens(prefix="<｜fim▁begin｜>", suffix="<｜fim▁hole｜>", middle="<｜fim▁end｜>"),
)


class FillInTheMiddleConfig(Config):
    """Options of fill-in-the-middle training."""

    fim_rate: float = Field(
        default=0.5, ge=0, le=1, description="Share of blocks that are rearranged."
    )
    spm_rate: float = Field(
        default=0.5, ge=0, le=1, description="Share of these with the suffix first."
    )
    length: int = Field(default=1_024, ge=16, description="Most tokens of a block.")
    seed: int = Field(default=0, ge=0, description="Decides, with a row's place, where it is cut.")
    tokens: InfillingTokens | None = Field(
        default=None, description="Control tokens; none finds those the tokenizer was made with."
    )


def arrange(
    parts: Sequence[Sequence[int]], control: Control, *, is_suffix_first: bool
) -> list[int]:
    """Put prefix, middle and suffix around the control tokens.

    Args:
        parts: Token ids of prefix, middle and suffix; with the suffix first, prefix and middle
            are encoded as one text, which is given as the middle behind an empty prefix.
        control: Ids of the tokens that stand before prefix, suffix and middle, and of the end.
        is_suffix_first: SPM order.
    Source: Bavarian et al. 2022, arXiv:2207.14255, section 3.

    >>> arrange([[1], [2], [3]], (90, 91, 92, 93), is_suffix_first=False)
    [90, 1, 91, 3, 92, 2, 93]
    >>> arrange([[], [1, 2], [3]], (90, 91, 92, 93), is_suffix_first=True)
    [90, 91, 3, 92, 1, 2, 93]
    """
    prefix, middle, suffix = parts
    before, behind, between, end = control
    if is_suffix_first:
        return [before, behind, *suffix, between, *prefix, *middle, end]
    return [before, *prefix, behind, *suffix, between, *middle, end]


def cut_text(text: str, renderer: Renderer, length: int) -> list[str]:
    """Cut a text into the fewest halves of halves that have at most `length` tokens each.

    Characters stay whole, nothing is lost, and cuts fall behind a line's end where there is one
    near the middle.
    """
    if len(text) < 2 or len(renderer.text_ids(text)) <= length:
        return [text] if text else []
    middle = len(text) // 2
    newline = text.rfind("\n", len(text) // 4, middle) + 1
    place = newline or middle
    return cut_text(text[:place], renderer, length) + cut_text(text[place:], renderer, length)


@lru_cache(maxsize=4)
def _control_tokens(tokenizer: Tokenizer, wanted: InfillingTokens | None) -> Control:
    for tokens in _KNOWN if wanted is None else (wanted,):
        ids = [_id_of(tokenizer, text) for text in (tokens.prefix, tokens.suffix, tokens.middle)]
        end = tokenizer.eos_id if tokens.end is None else _id_of(tokenizer, tokens.end)
        found = [token_id for token_id in (*ids, end) if token_id is not None]
        if len(found) == 4:
            return found[0], found[1], found[2], found[3]
    raise TrainingError(_missing(tokenizer, wanted))


def _missing(tokenizer: Tokenizer, wanted: InfillingTokens | None) -> str:
    if wanted is not None:
        named = [text for text in (wanted.prefix, wanted.suffix, wanted.middle, wanted.end) if text]
        absent = [text for text in named if _id_of(tokenizer, text) is None]
        what = f"misses {', '.join(absent)}" if absent else "has no end token: name `tokens.end`"
        return f"fill_in_the_middle.tokens: the tokenizer {what}."
    sets = "; ".join(f"{known.prefix} {known.suffix} {known.middle}" for known in _KNOWN)
    return (
        f"the tokenizer has no infilling tokens. Looked for {sets}.\n"
        "  Name three control tokens that the model can spare as method.tokens.prefix, .suffix "
        "and .middle, or train with method pretrain."
    )


def _id_of(tokenizer: Tokenizer, text: str) -> int | None:
    if text in tokenizer.special_tokens:
        return tokenizer.special_tokens[text]
    try:  # Code Llama's are pieces of the vocabulary that no text becomes
        return tokenizer.with_special_tokens([text]).special_tokens[text]
    except ModelFormatError:
        return None


def _encode(
    row_id: RowId, example: Example, renderer: Renderer, config: FillInTheMiddleConfig
) -> Sequence[EncodedRow]:
    assert isinstance(example, Document), "its only kind"
    control = _control_tokens(renderer.tokenizer, config.tokens)
    named = sha256(f"{config.seed} {row_id}".encode()).digest()
    chance = random.Random(named)
    room = config.length - len(renderer.tokenizer.wrap([])) - _SPARE_TOKENS
    try:
        return [
            EncodedRow(row_id, (_rearranged(block, renderer, control, config, chance),))
            for block in cut_text(example.text, renderer, max(1, room))
        ]
    except RowError as error:
        raise error.at(row_id) from None


def _rearranged(
    text: str,
    renderer: Renderer,
    control: Control,
    config: FillInTheMiddleConfig,
    chance: random.Random,
) -> EncodedSequence:
    if chance.random() >= config.fim_rate:
        return renderer.document(Document(text))
    is_suffix_first = chance.random() < config.spm_rate
    first, last = sorted(chance.randint(0, len(text)) for _ in range(2))
    texts = (text[:first], text[first:last], text[last:])
    if is_suffix_first:
        texts = ("", texts[0] + texts[1], texts[2])
    parts = [renderer.text_ids(part) for part in texts]
    arranged = arrange(parts, control, is_suffix_first=is_suffix_first)
    return _learned([*renderer.tokenizer.prefix_ids, *arranged])


def _learned(ids: Sequence[int]) -> EncodedSequence:
    has_loss = np.ones(len(ids), np.bool_)
    has_loss[0] = False
    return EncodedSequence(np.array(ids, np.int32), has_loss)


def _objective(config: FillInTheMiddleConfig, start: Start) -> Objective[PackedBatch]:
    model = start.model

    def loss(batch: PackedBatch) -> Loss:
        hidden = model(batch.tokens, batch.segments)
        return Loss(labelled_losses(model, hidden, batch.labels).sum())

    trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
    update = Update("loss", trained, loss, lambda batch: float(batch.num_labels))
    return Objective({"model": model}, [update])


method = methods.register(
    Method(
        summary="Teach infilling: documents cut at random, the middle written last.",
        source="Bavarian et al. 2022, arXiv:2207.14255",
        config=FillInTheMiddleConfig,
        kinds=("document",),
        encode=_encode,
        objective=_objective,
    ),
    __name__,
)
