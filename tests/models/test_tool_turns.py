"""Tools told in words: what a model reads that has no place for them in its template."""

import json

from yearling.core.messages import Message, parse_messages
from yearling.models.tool_turns import call_text, in_words, knows_calls

CLOCK = {"type": "function", "function": {"name": "clock", "description": "Tell the time. 时钟"}}


def turns(messages: list[Message]) -> list[tuple[str, str]]:
    return [(message.role, message.text) for message in messages]


def calling(*names: str, text: str | None = None) -> dict[str, object]:
    calls = [
        {"id": f"call_{name}", "type": "function", "function": {"name": name, "arguments": "{}"}}
        for name in names
    ]
    return {"role": "assistant", "content": text, "tool_calls": calls}


def test_tools_stand_in_the_system_message_whole() -> None:
    plain = parse_messages([{"role": "user", "content": "Hi"}])
    (role, text), user = turns(in_words(plain, [CLOCK]))
    assert (role, user) == ("system", ("user", "Hi"))
    assert json.dumps(CLOCK["function"], ensure_ascii=False) in text.splitlines()
    own = parse_messages([{"role": "system", "content": "Be kind."}, *plain])
    (role, longer), *_ = turns(in_words(own, [CLOCK]))
    assert (role, longer) == ("system", f"Be kind.\n\n{text}")


def test_calls_and_results_are_turns_of_text() -> None:
    messages = parse_messages(
        [
            {"role": "user", "content": "Time?"},
            calling("clock", "where", text="One moment."),
            {"role": "tool", "content": "12:00", "tool_call_id": "call_clock"},
            {"role": "tool", "content": "Bonn", "tool_call_id": "call_where"},
            {"role": "assistant", "content": "Noon, in Bonn."},
        ]
    )
    calls = [call_text(call) for call in messages[1].tool_calls]
    assert calls[0] == '<tool_call>\n{"name": "clock", "arguments": {}}\n</tool_call>'
    assert turns(in_words(messages, [])) == [
        ("user", "Time?"),
        ("assistant", "\n".join(["One moment.", *calls])),
        (
            "user",
            "<tool_response>\n12:00\n</tool_response>\n<tool_response>\nBonn\n</tool_response>",
        ),
        ("assistant", "Noon, in Bonn."),
    ]


def test_a_template_knows_calls_that_writes_them_and_reads_tools() -> None:
    assert knows_calls("{% if tools %}{{ tools }}{% endif %}<tool_call>\n")
    assert not knows_calls("{% if tools %}[AVAILABLE_TOOLS]{% endif %}")
    assert not knows_calls("{{ messages }}")


def test_turns_alternate_and_tools_find_a_place_without_a_system_message() -> None:
    messages = parse_messages(
        [
            {"role": "user", "content": "Time?"},
            calling("clock"),
            {"role": "tool", "content": "12:00", "tool_call_id": "call_clock"},
            {"role": "user", "content": "And now?"},
        ]
    )
    told = turns(in_words(messages, [CLOCK], has_system=False))
    assert [role for role, _ in told] == ["user", "assistant", "user"]
    (_, first), _, (_, last) = told
    assert first.endswith("\n\nTime?")
    assert "clock" in first
    assert last == "<tool_response>\n12:00\n</tool_response>\nAnd now?"
