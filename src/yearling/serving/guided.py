"""Guided output: at every step, which tokens keep an answer within a schema or a grammar.

A guide is compiled by llguidance, which walks the tokenizer's trie beside an Earley parser and a
lexer of regular-expression derivatives; it knows the bytes of tokens, so that an answer may be cut
anywhere, in the middle of a character too. What it allows is a bit for each token, and the sampler
never sees the others. Mostly a token that is drawn as if there were no guide is one that it allows,
and no other needs to be looked at (see `Generation.may_choose_first`). JSON is written as Python's
`json.dumps` writes it, with one space behind each comma and colon: indented objects take more
tokens and end less often within `max_tokens`.

Source: Geng et al. 2025, arXiv:2501.10868, on the grammars; Willard and Louf 2023,
arXiv:2307.09702, on guiding by masks.
"""

import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from yearling.core.errors import RequestError, UnsupportedError
from yearling.serving.detokenizer import TokenText
from yearling.serving.request import Guide

if TYPE_CHECKING:
    from llguidance import LLExecutor, LLMatcher, LLTokenizer

__all__ = ["GuideTokenizer", "Guided", "Guides"]

_WORD_BITS = 32
_SLICES = ("[A-Za-z ]{1,12}", "[a-z]{1,12}")
"""Tokens that are looked at together where a guide allows all of them, beside those of JSON."""

_JSON_STYLE = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


class GuideTokenizer(TokenText, Protocol):
    """What guiding needs of a tokenizer."""

    def encode(self, text: str, /) -> list[int]:
        """Token ids of a text."""
        ...


class Guides:
    """Begins guided answers over one tokenizer."""

    def __init__(
        self,
        tokenizer: GuideTokenizer,
        vocabulary: int,
        end_token_ids: Iterable[int],
        threads: int = 1,
    ) -> None:
        """Take what is needed; the trie of all tokens is built for the first guide.

        Args:
            tokenizer: Of the model.
            vocabulary: Token ids run from 0 to here.
            end_token_ids: Ids that end an answer, allowed where the guide is fulfilled.
            threads: Threads that look ahead.
        """
        self._tokenizer = tokenizer
        self._vocabulary = vocabulary
        self._end_token_ids = sorted(end_token_ids)
        self._threads = threads
        self._trie: LLTokenizer | None = None
        self._executor: LLExecutor | None = None

    def begin(self, guide: Guide) -> "Guided":
        """Compile a guide for a new answer.

        Raises:
            RequestError: it is malformed, of a kind that is not supported, or too large.
        """
        from llguidance import LLMatcher, LLParserLimits

        if self._trie is None:
            self._trie = self._build_trie()
        try:
            # An error with the parser's state in it can be as long as the grammar.
            limits = LLParserLimits(verbose_errors=False)
            matcher = LLMatcher(self._trie, _grammar(guide), log_level=0, limits=limits)
        except ValueError as error:
            raise _refused(guide, str(error)) from None
        guided = Guided(matcher, self)
        self.look_ahead([guided])
        if guided.problem is not None:
            raise _refused(guide, guided.problem)
        return guided

    def look_ahead(self, several: "Sequence[Guided]") -> None:
        """Find what may come next in each of several answers, side by side."""
        if self._executor is None:
            from llguidance import LLExecutor

            self._executor = LLExecutor(self._threads)
        masks = np.zeros((len(several), -(-self._vocabulary // _WORD_BITS)), np.uint32)
        whole = [(one.matcher, n) for n, one in enumerate(several) if not one.matcher.is_error()]
        if whole:
            self._executor.unsafe_compute_mask_ptr(
                whole, masks.ctypes.data, masks.strides[0], len(several)
            )
        for one, mask in zip(several, masks, strict=True):
            one.see(mask)

    def _build_trie(self) -> "LLTokenizer":
        from llguidance import LLTokenizer, TokenizerWrapper

        ids = [i for i in self._end_token_ids if i < self._vocabulary]
        if not ids:
            raise UnsupportedError(
                "this model has no token that ends an answer, so none can be guided to its end."
            )
        words = _Words(self._tokenizer, self._vocabulary, ids[0])
        return LLTokenizer(
            TokenizerWrapper(words),
            n_vocab=self._vocabulary,
            eos_token=ids,
            slices=[*LLTokenizer.general_slices(), *_SLICES],
        )


class Guided:
    """One answer under a guide.

    Attributes:
        problem: Why the answer cannot go on: a guide that became too complex; None while it can.
        matcher: Where it stands.
    """

    def __init__(self, matcher: "LLMatcher", guides: Guides) -> None:
        self.problem: str | None = None
        self.matcher = matcher
        self._guides = guides
        self._allowed: bytes | None = None

    @property
    def is_waiting(self) -> bool:
        """Whether nobody has looked ahead since the last token."""
        return self._allowed is None

    @property
    def allowed(self) -> bytes:
        """Which tokens may come next, as `SampleInput.allowed` has it."""
        if self._allowed is None:
            self._guides.look_ahead([self])
        assert self._allowed is not None, "seen a moment ago"
        return self._allowed

    def permits(self, token: int) -> bool:
        """Whether `allowed` has a token, found without looking at any other.

        Where the text is forced, only the token that a tokenizer would cut it into is allowed.
        """
        if self.matcher.validate_tokens([token]) != 1:
            return False
        forced = self.matcher.compute_ff_tokens()
        return not forced or forced[0] == token

    @property
    def is_finished(self) -> bool:
        """Whether nothing can follow but the end."""
        return self.problem is None and self.matcher.is_stopped()

    def take(self, token: int) -> None:
        """Go on by a token that was allowed."""
        self._allowed = None
        if self.problem is None and not self.matcher.consume_token(token):
            self.problem = _first_line(self.matcher.get_error()) or f"it refuses token {token}"

    def see(self, mask: NDArray[np.uint32]) -> None:
        """Take what may come next, a bit for each token."""
        if self.matcher.is_error():
            self.problem = _first_line(self.matcher.get_error())
        elif not mask.any():
            self.problem = "no token can follow"
        self._allowed = mask.tobytes()


class _Words:
    """A tokenizer as llguidance's wrapper takes it."""

    def __init__(self, tokenizer: GuideTokenizer, vocabulary: int, end_token: int) -> None:
        self.eos_token_id = end_token
        self.bos_token_id = None
        self.tokens: list[bytes] = []
        self.special_token_ids: list[int] = []
        self._tokenizer = tokenizer
        self._by_bytes: dict[bytes, int] | None = None
        self._longest = 0
        for token in range(vocabulary):
            try:
                self.tokens.append(tokenizer.token_bytes(token))
                is_special = tokenizer.is_special(token)
            except (IndexError, KeyError, RequestError):  # rows of padding have no token
                self.tokens.append(b"")
                is_special = True
            if is_special:
                self.special_token_ids.append(token)

    def __call__(self, text: str | bytes) -> list[int]:
        if isinstance(text, bytes):
            raise TypeError("texts are strings.")  # how the wrapper asks whether bytes will do
        # A tokenizer may put a space before a text, which is none in the middle of an answer.
        found, wanted = self._tokenizer.encode(text), text.encode()
        is_exact = b"".join(self.tokens[token] for token in found) == wanted
        return found if is_exact else self._longest_first(wanted)

    def _longest_first(self, text: bytes) -> list[int]:
        """Cut bytes into the longest tokens there are, from the left, as far as there are any."""
        if self._by_bytes is None:
            special = set(self.special_token_ids)
            ids = (token for token in range(len(self.tokens)) if token not in special)
            self._by_bytes = {self.tokens[token]: token for token in ids}
            self._longest = max(map(len, self._by_bytes), default=0)
        found: list[int] = []
        while text:
            sizes = range(min(self._longest, len(text)), 0, -1)
            size = next((size for size in sizes if text[:size] in self._by_bytes), None)
            if size is None:
                break
            found.append(self._by_bytes[text[:size]])
            text = text[size:]
        return found


def _grammar(guide: Guide) -> str:
    """A guide in llguidance's own form."""
    from llguidance import LLMatcher

    if guide.json_schema is not None:
        return LLMatcher.grammar_from_json_schema(guide.json_schema, overrides=_JSON_STYLE)  # type: ignore[arg-type]
    if guide.regex is not None:
        return LLMatcher.grammar_from_regex(guide.regex)
    if guide.choice is not None:
        choices = " | ".join(json.dumps(text) for text in guide.choice)
        return LLMatcher.grammar_from_lark(f"start: {choices}")
    assert guide.grammar is not None, "a guide has one of its four fields"
    return LLMatcher.grammar_from_lark(guide.grammar)


def _refused(guide: Guide, reason: str) -> RequestError:
    said = _first_line(reason)
    return RequestError(f"{guide.field} is no guide: {said}", parameter=guide.field)


def _first_line(reason: str) -> str:
    return reason.strip().partition("\n")[0][:500]
