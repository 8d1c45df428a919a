"""A tokenizer whose ids are bytes, with a few control tokens above them."""

from collections.abc import Iterable, Mapping


class ByteTokenizer:
    """Ids 0 to 255 are bytes; 256 is `<end>`, 257 is `<turn>`."""

    vocabulary_size = 258
    bos_id = None
    eos_id = 256
    adds_bos = False
    special_tokens: Mapping[str, int] = {"<end>": 256, "<turn>": 257}

    def encode(
        self,
        text: str,
        *,
        parse_special: bool = False,
        add_bos: bool = False,
        add_special: bool = False,
    ) -> list[int]:
        """Bytes of the text; control tokens in it, or around it, only when asked."""
        assert not add_bos
        if add_special:
            return self.wrap(self.encode(text, parse_special=parse_special))
        if not parse_special:
            return list(text.encode())
        for name, token in self.special_tokens.items():
            before, found, after = text.partition(name)
            if found:
                return [*self.encode(before), token, *self.encode(after, parse_special=True)]
        return list(text.encode())

    def wrap(self, ids: Iterable[int]) -> list[int]:
        """Control tokens around ids."""
        return [257, *ids, 256]

    def decode(self, ids: list[int], *, skip_special: bool = True) -> str:
        """Text of the ids."""
        shown = [token for token in ids if not (skip_special and self.is_special(token))]
        return b"".join(map(self.token_bytes, shown)).decode(errors="replace")

    def token_bytes(self, token: int) -> bytes:
        """Bytes of one id."""
        if token < 256:
            return bytes([token])
        return next(name for name, id_ in self.special_tokens.items() if id_ == token).encode()

    def is_special(self, token: int) -> bool:
        """Whether the id is a control token."""
        return token >= 256
