"""LangChain's `ChatOpenAI` over the embedded model: a chain that calls tools, and objects."""

import pytest
from langchain_core.messages import BaseMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, Field

from tests.server.live import LiveServer

pytestmark = pytest.mark.slow

MODEL = "SmolLM2-135M-Instruct.Q4_1"


@tool
def price_of(fruit: str) -> int:
    """Look up the price of a fruit."""
    return {"apple": 3, "banana": 4}[fruit]


@tool
def add(a: int, b: int) -> int:
    """Add two whole numbers."""
    return a + b


class Person(BaseModel):
    """Somebody."""

    name: str = Field(max_length=20)
    age: int


@pytest.fixture
def chat(smollm2_server: LiveServer) -> ChatOpenAI:
    return ChatOpenAI(
        base_url=f"{smollm2_server.url}/v1",
        api_key="any",
        model=MODEL,
        temperature=0,
        max_retries=0,
        max_completion_tokens=80,
    )


def test_chain_calls_tools_and_takes_their_results(chat: ChatOpenAI) -> None:
    """Which tool comes next is the chain's business, with what arguments the model's."""
    tools = {"price_of": price_of, "add": add}
    messages: list[BaseMessage] = []
    results = []
    for name, said in (("price_of", "What is the price of a banana?"), ("add", "Add 17 and 25.")):
        messages.append(HumanMessage(said))
        asked = chat.bind_tools(list(tools.values()), tool_choice=name)
        answer = asked.invoke(messages)
        messages.append(answer)
        (call,) = answer.tool_calls
        assert call["name"] == name
        result = tools[name].invoke(call)
        assert isinstance(result, ToolMessage)
        messages.append(result)
        results.append(result.content)
    assert results == ["4", "42"]
    last = chat.invoke([*messages, HumanMessage("Say thank you.")])
    assert last.content
    assert not last.tool_calls


def test_streamed_call_is_the_whole_one(chat: ChatOpenAI) -> None:
    asked = chat.bind_tools([add], tool_choice="add")
    whole = asked.invoke("Add 2 and 3.")
    chunks = list(asked.stream("Add 2 and 3."))
    joined = chunks[0]
    for chunk in chunks[1:]:
        joined += chunk
    (call,), (expected,) = joined.tool_calls, whole.tool_calls
    assert (call["name"], call["args"]) == (expected["name"], expected["args"])
    assert len(chunks) > 3


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_answer_is_an_object_of_a_class(chat: ChatOpenAI, method: str) -> None:
    asked = chat.with_structured_output(Person, method=method)  # type: ignore[arg-type]
    person = asked.invoke("Anna is 31 years old.")
    assert isinstance(person, Person)
    assert "Anna" in person.name
    assert person.age == 31
