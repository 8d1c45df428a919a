import json
from typing import Any

import pytest

from yearling.core.errors import DataError
from yearling.data.examples import Continuation, Conversation, Document, Preference
from yearling.data.schema import read_example, read_row

HI = {"role": "user", "content": "Hi"}
HELLO = {"role": "assistant", "content": "Hello"}
WHAT = {"role": "assistant", "content": "What?"}
TOOL = {"type": "function", "function": {"name": "add", "parameters": {}}}


def spoken(values: dict[str, Any], schema: Any = "auto") -> list[tuple[str, str, bool]]:
    example = read_example(values, schema)
    assert isinstance(example, Conversation)
    return [(turn.message.role, turn.message.text, turn.has_loss) for turn in example.turns]


GREETING = [("user", "Hi", False), ("assistant", "Hello", True)]


@pytest.mark.parametrize(
    "values",
    [
        {"messages": [HI, HELLO]},
        {"messages": json.dumps([HI, HELLO]), "prompt": "not read"},
        {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]},
        {"instruction": "Hi", "input": "", "output": "Hello", "text": "not read"},
        {"instruction": "Hi", "context": None, "response": "Hello"},
        {"question": "Hi", "answer": "Hello"},
        {"query": "Hi", "response": "Hello"},
        {"prompt": "Hi", "response": "Hello", "history": []},
        {"prompt": [HI], "completion": [HELLO]},
    ],
)
def test_chat_rows_say_the_same_in_every_spelling(values: dict[str, Any]) -> None:
    assert spoken(values) == GREETING


def test_alpaca_joins_instruction_and_input_by_one_newline() -> None:
    row = {"instruction": "Add.", "input": "1 1", "output": "2", "system": "Be short."}
    row["history"] = [["Hi", "Hello"]]  # type: ignore[assignment]
    assert spoken(row) == [
        ("system", "Be short.", False),
        *GREETING,
        ("user", "Add.\n1 1", False),
        ("assistant", "2", True),
    ]


def test_prompt_and_completion_go_on_without_a_template_unless_asked() -> None:
    row = {"prompt": "1 + 1 =", "completion": " 2"}
    assert read_example(row) == Continuation("1 + 1 =", " 2")
    assert spoken(row, "question_answer") == [("user", "1 + 1 =", False), ("assistant", " 2", True)]
    asked = {"question": "1 + 1 =", "answer": " 2"}
    assert read_example(asked, "prompt_completion") == Continuation("1 + 1 =", " 2")


def test_text_is_a_document() -> None:
    assert read_example({"text": "Once"}) == Document("Once")


@pytest.mark.parametrize("flag", [{"loss": False}, {"train": False}, {"weight": 0}])
def test_flag_takes_a_turn_out_of_the_loss(flag: dict[str, Any]) -> None:
    first = spoken({"messages": [HI, HELLO | flag, HI, HELLO]})
    assert [has_loss for _, _, has_loss in first] == [False, False, False, True]
    assert spoken({"messages": [HI | {"loss": True}, HELLO]})[0][2]


def test_prompt_messages_have_no_loss() -> None:
    row = {"prompt": [HI, HELLO, HI], "completion": [HELLO]}
    assert [has_loss for _, _, has_loss in spoken(row)] == [False, False, False, True]


def test_tool_calls_of_both_forms_are_openais() -> None:
    called = {"name": "add", "arguments": {"a": 1}}
    openai = [
        HI,
        {"role": "assistant", "tool_calls": [{"function": called}]},
        {"role": "tool", "content": "2"},
        HELLO,
    ]
    sharegpt = [
        {"from": "human", "value": "Hi"},
        {"from": "function_call", "value": json.dumps(called)},
        {"from": "observation", "value": "2"},
        {"from": "gpt", "value": "Hello"},
    ]
    one = read_example({"messages": openai, "tools": [TOOL]})
    other = read_example({"conversations": sharegpt, "tools": json.dumps([TOOL["function"]])})
    assert one == other
    assert isinstance(one, Conversation)
    assert one.tools == (TOOL,)
    (call,) = one.turns[1].message.tool_calls
    assert (call.name, json.loads(call.arguments)) == ("add", {"a": 1})
    assert one.turns[1].has_loss
    assert one.turns[2].message.tool_call_id == call.id


@pytest.mark.parametrize(
    "values",
    [
        {"prompt": "Hi", "chosen": "Hello", "rejected": "What?"},
        {"prompt": [HI], "chosen": [HELLO], "rejected": [WHAT]},
        {"prompt": "Hi", "chosen": [HI, HELLO], "rejected": [HI, WHAT]},
        {"chosen": [HI, HELLO], "rejected": [HI, WHAT]},
        {"instruction": "Hi", "chosen": "Hello", "rejected": "What?"},
        {"messages": [HI, HELLO], "rejected_response": "What?"},
        {"messages": [HI, HELLO], "rejected_messages": [HI, WHAT]},
        {"query": "Hi", "response": "Hello", "rejected_response": "What?"},
        {
            "conversations": [{"from": "human", "value": "Hi"}],
            "chosen": {"from": "gpt", "value": "Hello"},
            "rejected": {"from": "gpt", "value": "What?"},
        },
        {
            "chosen": "\n\nHuman: Hi\n\nAssistant: Hello",
            "rejected": "\n\nHuman: Hi\n\nAssistant: What?",
        },
    ],
)
def test_preferences_say_the_same_in_every_spelling(values: dict[str, Any]) -> None:
    example = read_example(values)
    assert isinstance(example, Preference)
    assert [(one.role, one.text) for one in example.prompt] == [("user", "Hi")]
    assert [(one.role, one.text) for one in example.chosen] == [("assistant", "Hello")]
    assert [(one.role, one.text) for one in example.rejected] == [("assistant", "What?")]


def test_shared_answers_go_to_the_prompt_with_what_stood_before() -> None:
    row = {
        "system": "Be short.",
        "chosen": [HI, HELLO, HI, HELLO],
        "rejected": [HI, HELLO, HI, WHAT],
    }
    example = read_example(row)
    assert isinstance(example, Preference)
    assert [one.role for one in example.prompt] == ["system", "user", "assistant", "user"]
    assert (len(example.chosen), len(example.rejected)) == (1, 1)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"txt": "a", "id": 1}, r"'txt', 'id' fit no schema\. Nearest is text, which needs 'text'"),
        ({"instruction": "a", "outputs": "b"}, r"Nearest is alpaca.*'output'/'response'"),
        ({"instruction": "a", "output": None}, "'instruction' fit no schema"),
        ({}, "no column with a value"),
        ({"question": "a", "answer": ""}, "'answer' is empty"),
        ({"question": "a", "answer": 42}, "'answer' must be text; it is int 42"),
        ({"messages": "hello"}, "'messages' must be a list; its text is not JSON"),
        ({"messages": []}, "messages is empty"),
        ({"messages": ["a"]}, r"messages\[0\] must be an object"),
        ({"messages": [{"content": "a"}]}, r"messages\[0\] has neither 'role' nor 'from'"),
        ({"messages": [{"role": "boss", "content": "a"}]}, r"messages\[0\]\.role is 'boss'"),
        ({"conversations": [{"from": "human"}]}, r"conversations\[0\]\.content is missing"),
        ({"messages": [HI, HELLO | {"content": " "}]}, r"messages\[1\]\.content is empty"),
        ({"messages": [HI, HELLO | {"loss": "no"}]}, r"messages\[1\]\.loss='no'"),
        ({"messages": [HI, HELLO | {"loss": True, "weight": 0}]}, "both yes and no"),
        ({"messages": [HI, HELLO], "tools": [{}]}, r"tools\[0\]"),
        ({"messages": [{"role": "system", "content": "a"}], "system": "b"}, "keep one"),
        ({"conversations": [{"from": "function_call", "value": "add(1)"}]}, "not JSON"),
        ({"instruction": "a", "output": "b", "history": [["a"]]}, r"history\[0\]"),
        ({"prompt": "a", "chosen": "b", "rejected": "b"}, "are equal"),
        ({"chosen": "b", "rejected": "c"}, "no prompt"),
        ({"prompt": "a", "rejected": "c"}, "'chosen' is missing"),
        ({"chosen": [HI, HELLO], "rejected": [WHAT]}, "the chosen answer must begin"),
        ({"prompt": [HI], "chosen": [HELLO | {"loss": False}], "rejected": [WHAT]}, "no meaning"),
        ({"prompt": "a", "completion": [HELLO]}, "'completion' must be text; it is list"),
    ],
)
def test_wrong_column_is_named(values: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        read_example(values)


def test_schema_that_is_asked_for_is_not_guessed() -> None:
    with pytest.raises(DataError, match=r"'output' or 'response' is missing; .* 'text'"):
        read_example({"instruction": "a", "text": "b"}, "alpaca")
    with pytest.raises(DataError, match="no schema is named 'alpacca'"):
        read_example({"text": "b"}, "alpacca")  # type: ignore[arg-type]


def test_what_is_not_read_is_named() -> None:
    row = {"messages": [HI | {"time": 3}, HELLO], "id": 7, "note": None}
    _, unused = read_row(row)
    assert unused == ["id", "messages[].time"]
    assert read_row({"text": "a"})[1] == []
