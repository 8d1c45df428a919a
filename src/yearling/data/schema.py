"""What a row means, recognised from its columns: no registration file, nothing ignored in silence.

{"messages": [{"role": "user", "content": "Hi"}, …]}                     messages
{"conversations": [{"from": "human", "value": "Hi"}, …]}                 sharegpt
{"instruction": "Add.", "input": "1 1", "output": "2"}                   alpaca
{"question": "1 + 1?", "answer": "2"}                                    question_answer
{"prompt": "1 + 1 =", "completion": " 2"}                                prompt_completion
{"prompt": "Hi", "chosen": "Hello!", "rejected": "What?"}                preference
{"text": "Once upon a time …"}                                           text
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal, get_args

from yearling.core.errors import DataError
from yearling.data.columns import Columns, json_list
from yearling.data.examples import Continuation, Conversation, Document, Example, Turn
from yearling.data.preferences import read_preference
from yearling.data.turns import read_tools, read_turns, spoken

__all__ = ["Schema", "SchemaName", "read_example", "read_row", "recognise", "schemas"]

SchemaName = Literal[
    "auto",
    "messages",
    "sharegpt",
    "alpaca",
    "question_answer",
    "prompt_completion",
    "preference",
    "text",
]

_PROMPTS = ("prompt", "question", "query")
_ANSWERS = ("completion", "answer", "response")


@dataclass(frozen=True, slots=True)
class Schema:
    """A way to write rows.

    Attributes:
        name: Its word in YAML.
        needs: Columns that a row must have; of each group one spelling.
        read: Makes columns into an example.
    """

    name: SchemaName
    needs: tuple[tuple[str, ...], ...]
    read: Callable[[Columns], Example]

    def fits(self, columns: Columns) -> bool:
        """Say whether a row has every column that is needed."""
        return all(columns.has(*spellings) for spellings in self.needs)


def read_example(values: Mapping[str, Any], schema: SchemaName = "auto") -> Example:
    """Say what a row means.

    Args:
        values: The row's columns; a null counts as no column.
        schema: How it is written; `auto` recognises it.
    Raises:
        DataError: no schema fits, or a column is wrong; the text names it and what was found.

    >>> read_example({"prompt": "1 + 1 =", "completion": " 2"})
    Continuation(prompt='1 + 1 =', completion=' 2')
    """
    return read_row(values, schema)[0]


def read_row(
    values: Mapping[str, Any], schema: SchemaName = "auto"
) -> tuple[Example, Sequence[str]]:
    """Say what a row means, and which of its columns say nothing in its schema.

    Raises:
        DataError: as `read_example`.
    """
    columns = Columns(values)
    found = recognise(columns) if schema == "auto" else _named(schema)
    example = found.read(columns)
    return example, sorted(columns.unused)


def recognise(columns: Columns) -> Schema:
    """Find the schema whose columns a row has.

    Raises:
        DataError: there is none; the text says which is nearest and what it lacks.
    """
    for schema in schemas():
        if schema.fits(columns):
            return schema
    nearest = max(schemas(), key=lambda schema: _likeness(schema, columns))
    needs = " and ".join("/".join(map(repr, group)) for group in nearest.needs)
    raise DataError(
        f"the columns {columns.found()} fit no schema. Nearest is {nearest.name}, which needs "
        f"{needs}; rename the columns, or set data.row_schema."
    )


def schemas() -> tuple[Schema, ...]:
    """Give all schemas, in the order in which they are tried."""
    return _SCHEMAS


def _named(name: str) -> Schema:
    for schema in _SCHEMAS:
        if schema.name == name:
            return schema
    raise DataError(f"no schema is named {name!r}; there are {', '.join(get_args(SchemaName))}.")


def _likeness(schema: Schema, columns: Columns) -> float:
    """How much of a schema a row has; a misspelt column counts half."""
    score = 0.0
    for group in schema.needs:
        if columns.has(*group):
            score += 1
        elif any(get_close_matches(name, columns.unused, n=1, cutoff=0.7) for name in group):
            score += 0.5
    return score / len(schema.needs)


def _read_messages(columns: Columns) -> Conversation:
    name, raw = columns.take("messages")
    return _conversation(read_turns(raw, name, columns), columns)


def _read_sharegpt(columns: Columns) -> Conversation:
    name, raw = columns.take("conversations")
    return _conversation(read_turns(raw, name, columns), columns)


def _read_alpaca(columns: Columns) -> Conversation:
    asked = (columns.text("instruction"), columns.optional_text("input", "context"))
    turns = (
        spoken("user", "\n".join(part for part in asked if part)),
        spoken("assistant", columns.text("output", "response")),
    )
    return _conversation((*_history(columns), *turns), columns)


def _read_question_answer(columns: Columns) -> Example:
    if _is_chat(columns):
        return _read_chat(columns)
    turns = (
        spoken("user", columns.text(*_PROMPTS)),
        spoken("assistant", columns.text(*_ANSWERS)),
    )
    return _conversation((*_history(columns), *turns), columns)


def _read_prompt_completion(columns: Columns) -> Example:
    if _is_chat(columns):
        return _read_chat(columns)
    return Continuation(columns.text(*_PROMPTS), columns.text(*_ANSWERS))


def _is_chat(columns: Columns) -> bool:
    return not any(isinstance(columns.take(*names)[1], str) for names in (_PROMPTS, _ANSWERS))


def _read_chat(columns: Columns) -> Conversation:
    """Read prompt and completion that are lists of messages; only the completion is learned."""
    name, raw = columns.take(*_PROMPTS)
    prompt = [Turn(turn.message, False) for turn in read_turns(raw, name, columns)]
    name, raw = columns.take(*_ANSWERS)
    return _conversation((*prompt, *read_turns(raw, name, columns)), columns)


def _read_text(columns: Columns) -> Document:
    return Document(columns.text("text"))


def _history(columns: Columns) -> list[Turn]:
    """Read earlier turns, a list of pairs of question and answer."""
    turns = []
    for index, pair in enumerate(columns.optional_list("history")):
        said = json_list(pair, f"history[{index}]")
        if len(said) != 2 or not all(isinstance(text, str) for text in said):
            raise DataError(f"history[{index}] must be a question and its answer, two texts.")
        turns += [spoken("user", said[0]), spoken("assistant", said[1])]
    return turns


def _conversation(turns: Sequence[Turn], columns: Columns) -> Conversation:
    """Put a `system` column before the turns, and the tools beside them."""
    system = columns.optional_text("system")
    if system:
        if turns[0].message.role == "system":
            raise DataError("there is a system message, and a column 'system' as well: keep one.")
        turns = (spoken("system", system), *turns)
    return Conversation(tuple(turns), read_tools(columns))


# Rows of one schema may carry columns of a later one: Alpaca's own file has `text` as well.
_SCHEMAS = (
    Schema(
        "preference",
        (("rejected", "rejected_response", "rejected_messages"),),
        read_preference,
    ),
    Schema("messages", (("messages",),), _read_messages),
    Schema("sharegpt", (("conversations",),), _read_sharegpt),
    Schema("alpaca", (("instruction",), ("output", "response")), _read_alpaca),
    Schema("prompt_completion", (("prompt",), ("completion",)), _read_prompt_completion),
    Schema("question_answer", (_PROMPTS, _ANSWERS), _read_question_answer),
    Schema("text", (("text",),), _read_text),
)
