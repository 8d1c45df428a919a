"""Tool calls: only calls that can be carried out, and read alike in one piece and in many."""

import json
import random
import re
from itertools import pairwise
from typing import Any

import pytest
from fake_tokenizer import ByteTokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from test_guided import END, ids, wander

from yearling.core.errors import RequestError
from yearling.serving.guided import Guides
from yearling.serving.tool_calls import CallPiece, ToolCallReader, tool_guide

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Tell the weather.",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "maxLength": 6},
                "unit": {"enum": ["C", "F"]},
            },
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
CLOCK = {"type": "function", "function": {"name": "clock"}}
CALL = re.compile(r"<tool_call>\n(.*?)\n</tool_call>", re.DOTALL)


@pytest.fixture(scope="module")
def guides() -> Guides:
    return Guides(ByteTokenizer(), ByteTokenizer.vocabulary_size, [END])


def read(pieces: list[str]) -> tuple[str, list[tuple[str, str]]]:
    """Text and calls that a reader finds, joined."""
    reader, text, calls = ToolCallReader(), "", list[list[str]]()
    found = [piece for part in pieces for piece in reader.push(part)] + reader.finish()
    for piece in found:
        assert piece != CallPiece()
        if piece.call is None:
            text += piece.text
        elif piece.name is not None:
            assert piece.call == len(calls)
            calls.append([piece.name, ""])
        else:
            calls[piece.call][1] += piece.arguments
    assert reader.num_calls == len(calls)
    return text, [(name, arguments) for name, arguments in calls]


@pytest.mark.parametrize("is_parallel", [True, False])
def test_required_calls_name_a_tool_and_hold_to_its_schema(
    guides: Guides, is_parallel: bool
) -> None:
    guide = tool_guide([WEATHER, CLOCK], "required", is_parallel=is_parallel)
    seen = set()
    for seed in range(40):
        text, calls = read([wander(guides.begin(guide), seed)])
        assert text == ""
        assert len(calls) == 1, "an answer that may end ends"
        (name, arguments) = calls[0]
        seen.add(name)
        given_arguments = json.loads(arguments)
        if name == "clock":
            assert given_arguments == {}
        else:
            assert set(given_arguments) <= {"city", "unit"}
            assert len(given_arguments["city"]) <= 6
    assert seen == {"get_weather", "clock"}


def follow(guides: Guides, guide: Any, text: str) -> str | None:
    """Whether a guide takes a whole text and its end; else what it would not take."""
    guided = guides.begin(guide)
    for number, byte in enumerate(text.encode()):
        if byte not in ids(guided):
            return text.encode()[number:].decode()
        guided.take(byte)
    return None if guided.is_finished or END in ids(guided) else "its end"


ONE = '<tool_call>\n{"name": "clock", "arguments": {}}\n</tool_call>'
OTHER = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Bonn"}}\n</tool_call>'


@pytest.mark.parametrize(
    ("text", "is_parallel", "refused"),
    [
        ("It is < 5 <tool_calls", True, None),
        (ONE, False, None),
        (f"One moment.\n{OTHER}", False, None),
        (f"{ONE}\n{OTHER}", True, None),
        (f"{ONE}\n{OTHER}", False, f"\n{OTHER}"),
        ("<tool_call>\n{}", True, "}"),
        ('<tool_call>\n{"name": "rm"', True, 'rm"'),
        (f"{ONE} and more", True, " and more"),
    ],
)
def test_answer_is_text_or_ends_in_whole_calls(
    guides: Guides, text: str, is_parallel: bool, refused: str | None
) -> None:
    guide = tool_guide([WEATHER, CLOCK], "auto", is_parallel=is_parallel)
    assert follow(guides, guide, text) == refused


def test_schema_that_cannot_be_kept_names_the_tools(guides: Guides) -> None:
    broken = {"type": "function", "function": {"name": "x", "parameters": {"type": "strange"}}}
    with pytest.raises(RequestError, match="tools is no guide") as caught:
        guides.begin(tool_guide([broken], "auto", is_parallel=True))
    assert caught.value.parameter == "tools"


TEXTS = [
    "plain <tool text\n",
    f"Wait.\n{ONE}",
    f"{OTHER}\n{ONE}",
    '<tool_call>\n{"name": "a", "arguments": {"x": "}\\n</tool"}}\n</tool_call>',
]


@given(st.sampled_from(TEXTS), st.integers(0, 2**32))
@settings(max_examples=150, deadline=None)
def test_pieces_of_any_length_read_as_the_whole(text: str, seed: int) -> None:
    dice = random.Random(seed)
    cuts = sorted({0, len(text), *(dice.randrange(len(text) + 1) for _ in range(6))})
    assert read([text[start:end] for start, end in pairwise(cuts)]) == read([text])
    assert read(list(text)) == read([text])


def test_reader_gives_text_and_calls_apart() -> None:
    assert read([f"Wait.\n{OTHER}\n{ONE}"]) == (
        "Wait.",
        [("get_weather", '{"city": "Bonn"}'), ("clock", "{}")],
    )


def test_arguments_come_before_the_call_ends() -> None:
    reader = ToolCallReader()
    (head,) = reader.push('<tool_call>\n{"name": "f", "arguments": ')
    assert head == CallPiece(call=0, name="f")
    assert reader.push('{"a": "long') == [CallPiece(call=0, arguments='{"a": "long')]


def test_a_cut_answer_loses_nothing() -> None:
    assert read(["Wait.\n<tool_"]) == ("Wait.\n<tool_", [])
    assert read(['<tool_call>\n{"name": "cl']) == ('<tool_call>\n{"name": "cl', [])
    head = '<tool_call>\n{"name": "f", "arguments": '
    assert read([head + '{"a": 1}']) == ("", [("f", '{"a": 1}')])
    assert read([head + '{"a": 1}}']) == ("", [("f", '{"a": 1}')]), "the call's own brace"
    assert read([head + '{"a": {"b": 1}']) == ("", [("f", '{"a": {"b": 1}')])


def test_a_cut_call_is_known_as_such() -> None:
    head = '<tool_call>\n{"name": "f", "arguments": '
    whole = head + '{"a": 1}}\n</tool_call>'
    cases = {
        "no call": False,
        whole: False,
        head + '{"a": 1}}': False,
        head + '{"a"': True,
        head: True,
        whole + "\n<tool_call>\n{": True,
    }
    for text, is_cut in cases.items():
        reader = ToolCallReader()
        reader.push(text)
        reader.finish()
        assert reader.is_cut is is_cut, text


def test_keywords_that_cannot_be_kept_bind_strict_tools_alone(guides: Guides) -> None:
    parameters = {"type": "object", "properties": {"x": {"type": "array", "uniqueItems": True}}}
    function = {"name": "f", "parameters": parameters}
    loose = tool_guide([{"type": "function", "function": function}], "auto", is_parallel=True)
    guides.begin(loose)
    strict = {"type": "function", "function": {**function, "strict": True}}
    with pytest.raises(RequestError, match="uniqueItems"):
        guides.begin(tool_guide([strict], "auto", is_parallel=True))
