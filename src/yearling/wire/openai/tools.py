"""Tools of a chat request, and calls of them in its answer.

Source: https://platform.openai.com/docs/guides/function-calling.
"""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from yearling.core.errors import RequestError
from yearling.serving.request import Guide
from yearling.serving.tool_calls import tool_guide

__all__ = ["NamedTool", "Tool", "ToolUse", "call_object", "checked_tool", "new_call_id", "tool_use"]

_MAX_TOOLS = 128  # OpenAI's


class _Function(BaseModel):
    """A function that may be called."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: str = Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$", description="What calls name it.")
    description: str | None = Field(default=None, description="What it does, for the model.")
    parameters: dict[str, Any] | None = Field(
        default=None, description="JSON Schema of its arguments; none takes none."
    )
    strict: bool | None = Field(
        default=None, description="Refuse keywords of the schema that cannot be kept."
    )


class Tool(BaseModel):
    """A tool; functions are the only kind."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    type: Literal["function"] = Field(description="Of the tool.")
    function: _Function = Field(description="The function.")


def checked_tool(
    name: str, *, description: str | None, parameters: dict[str, Any], strict: bool | None
) -> Tool:
    """A tool of another API, which has checked it, and allows other names than OpenAI does."""
    function = _Function.model_construct(
        name=name, description=description, parameters=parameters, strict=strict
    )
    return Tool.model_construct(type="function", function=function)


class _FunctionName(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: str = Field(description="Of one of the tools.")


class NamedTool(BaseModel):
    """The one tool that is to be called."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    type: Literal["function"] = Field(description="Of the tool.")
    function: _FunctionName = Field(description="The function.")


@dataclass(frozen=True, slots=True)
class ToolUse:
    """What an answer may do with tools.

    Attributes:
        tools: Definitions that the model is shown, in OpenAI's form.
        guide: Keeps the answer to them.
    """

    tools: tuple[Mapping[str, Any], ...]
    guide: Guide


def tool_use(
    tools: Sequence[Tool] | None,
    choice: Literal["none", "auto", "required"] | NamedTool | None,
    *,
    is_parallel: bool,
) -> ToolUse | None:
    """Put the three fields in internal terms; None where no tool is to be called.

    Raises:
        RequestError: a choice without tools, two tools of one name, or one that is not there.
    """
    if not tools:
        if choice not in (None, "none", "auto"):
            raise RequestError(
                "tool_choice asks for a tool, but there are no tools.", parameter="tool_choice"
            )
        return None
    if len(tools) > _MAX_TOOLS:
        raise RequestError(
            f"tools holds {len(tools)} entries; {_MAX_TOOLS} is the limit.", parameter="tools"
        )
    if choice == "none":
        return None
    names = [tool.function.name for tool in tools]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise RequestError(f"tools holds two functions named {twice!r}.", parameter="tools")
    shown = tuple(tool.model_dump(exclude_none=True) for tool in tools)
    offered = shown
    if isinstance(choice, NamedTool):
        wanted = choice.function.name
        offered = tuple(tool for tool in shown if tool["function"]["name"] == wanted)
        if not offered:
            raise RequestError(
                f"tool_choice names {wanted[:128]!r}; the tools are {', '.join(names)}.",
                parameter="tool_choice",
            )
        is_parallel = False
    must_call = isinstance(choice, NamedTool) or choice == "required"
    guide = tool_guide(offered, "required" if must_call else "auto", is_parallel=is_parallel)
    return ToolUse(shown, guide)


def new_call_id() -> str:
    """Draw the identifier of a call."""
    return f"call_{secrets.token_hex(12)}"


def call_object(call_id: str, name: str, arguments: str) -> dict[str, Any]:
    """A call as an answer shows it."""
    return {
        "id": call_id,
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }
