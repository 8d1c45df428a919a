"""Reading JSON that nobody trusts."""

import contextlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yearling.core.errors import RequestError
from yearling.server.limits import Limits
from yearling.wire.json_body import parse_json_object

LIMITS = Limits().for_requests()

BAD_BODIES: dict[str, bytes] = {
    "empty": b"",
    "blank": b" \r\n\t ",
    "null": b"null",
    "true": b"true",
    "number": b"1",
    "string": b'"{}"',
    "array": b"[]",
    "word": b"hello",
    "unclosed object": b'{"a": 1',
    "unclosed string": b'{"a": "b}',
    "two objects": b"{}{}",
    "trailing text": b"{} x",
    "trailing comma": b'{"a": 1,}',
    "trailing comma in array": b'{"a": [1,]}',
    "single quotes": b"{'a': 1}",
    "bare key": b"{a: 1}",
    "comment": b'{"a": 1 /* one */}',
    "number as key": b"{1: 1}",
    "NaN": b'{"a": NaN}',
    "Infinity": b'{"a": Infinity}',
    "minus Infinity": b'{"a": -Infinity}',
    "1e999": b'{"a": 1e999}',
    "minus 1e999": b'{"a": -1e999}',
    "long float that overflows": b'{"a": 1' + b"0" * 400 + b".0}",
    "21 digits": b'{"a": 123456789012345678901}',
    "5000 digits": b'{"a": 1' + b"0" * 5000 + b"}",
    "5000 digits, negative": b'{"a": -1' + b"0" * 5000 + b"}",
    "leading zero": b'{"a": 01}',
    "plus sign": b'{"a": +1}',
    "hexadecimal": b'{"a": 0x10}',
    "bare point": b'{"a": .5}',
    "lone high surrogate": rb'{"a": "\ud800"}',
    "lone low surrogate": rb'{"a": "\udfff x"}',
    "surrogates the wrong way round": rb'{"a": "\udc00\ud800"}',
    "lone surrogate in a key": rb'{"\ud800": 1}',
    "lone surrogate deep inside": rb'{"a": [{"b": ["\ud83d"]}]}',
    "raw surrogate": b'{"a": "\xed\xa0\x80"}',
    "Latin-1": '{"a": "é"}'.encode("latin-1"),
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "UTF-16 without mark": '{"a": 1}'.encode("utf-16-le"),
    "byte order mark": b'\xef\xbb\xbf{"a": 1}',
    "overlong slash": b'{"a": "\xc0\xaf"}',
    "cut in a character": b'{"a": "\xe2\x82',
    "control character": b'{"a": "\x01"}',
    "raw line feed": b'{"a": "x\ny"}',
    "raw NUL": b'{"a": "\x00"}',
    "NUL after": b"{}\x00",
    "unknown escape": rb'{"a": "\x41"}',
    "short escape": rb'{"a": "\u12"}',
    "key twice": b'{"a": 1, "a": 2}',
    "key twice, deep inside": b'{"a": [{"b": 1, "b": 1}]}',
    "key twice, spelt differently": rb'{"a": 1, "\u0061": 2}',
    "65 levels": b'{"a": ' + b"[" * 64 + b"]" * 64 + b"}",
    "100000 arrays": b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "100000 objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "100000 open arrays": b"[" * 100_000,
    "form": b"a=1&b=2",
    "XML": b"<a/>",
    "gzip": b"\x1f\x8b\x08\x00\x00\x00\x00\x00",
    "python": b"{'a': None, 'b': True}",
}


@pytest.mark.parametrize("body", BAD_BODIES.values(), ids=BAD_BODIES)
def test_bad_json_is_refused(body: bytes) -> None:
    with pytest.raises(RequestError) as caught:
        parse_json_object(body, LIMITS)
    assert len(str(caught.value)) < 300
    assert str(caught.value).startswith("The body ")


def test_list_of_bad_bodies_has_sixty_cases() -> None:
    assert len(BAD_BODIES) == 60


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b'{"a": 9007199254740993}', {"a": 2**53 + 1}),
        (b'{"a": -0}', {"a": 0}),
        (b'{"a": -0.0, "b": 1e-400}', {"a": 0.0, "b": 0.0}),
        (b'{"a": 12345678901234567890}', {"a": 12345678901234567890}),
        (rb'{"a": "\ud83d\ude00"}', {"a": "😀"}),
        (rb'{"a": "\u0000"}', {"a": "\0"}),
        (b'{"": {"": []}}', {"": {"": []}}),
        (b'{"a": ' + b"[" * 63 + b"]" * 63 + b"}", None),
    ],
)
def test_odd_but_valid_json_is_read(body: bytes, value: object) -> None:
    read = parse_json_object(body, LIMITS)
    assert value is None or read == value


_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@settings(deadline=None, max_examples=60)
@given(st.dictionaries(st.text(), _JSON, max_size=5), st.booleans())
def test_every_json_object_is_read_as_it_was_written(value: dict, is_ascii: bool) -> None:
    body = json.dumps(value, ensure_ascii=is_ascii).encode()
    assert parse_json_object(body, LIMITS) == value


@settings(deadline=None, max_examples=60)
@given(st.binary(max_size=200))
def test_random_bytes_never_raise_anything_else(body: bytes) -> None:
    with contextlib.suppress(RequestError):
        assert isinstance(parse_json_object(body, LIMITS), dict)
