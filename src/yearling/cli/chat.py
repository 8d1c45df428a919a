"""`yearling chat`: talk to a model in this process, on a terminal or in a pipe."""

import json
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from types import FrameType

    from yearling.serving.llm import LLM
    from yearling.serving.request import SamplingParams

__all__ = ["Conversation", "chat"]

_HELP = "Ctrl-C stops an answer, /new starts over, Ctrl-D or /quit ends."


def chat(
    question: Annotated[
        str | None, typer.Argument(help="Ask this, print the answer, and end.")
    ] = None,
    model: Annotated[
        str, typer.Option("--model", "-m", help="Store name, GGUF file or folder.")
    ] = "smollm2",
    system: Annotated[str | None, typer.Option("--system", "-s", help="System message.")] = None,
    temperature: Annotated[
        float | None, typer.Option(help="0 always takes the likeliest token. [0.6]")
    ] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Longest answer. [what fits]")] = None,
    seed: Annotated[int | None, typer.Option(help="Makes answers repeatable.")] = None,
    chat_template: Annotated[
        str | None, typer.Option(help="Name of a chat template, or a .jinja file. [the model's]")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="Any setting: sampling.top_k=40, engine.threads=1."),
    ] = None,
) -> None:
    """Chat with a model; a question may also come from a pipe.

    \b
    yearling chat
    yearling chat "Why is the sky blue?"
    cat notes.txt | yearling chat "Summarise this."
    """  # noqa: D301 - click reads the control character
    asked = _question(question)
    given = {
        "sampling.temperature": temperature,
        "sampling.max_tokens": max_tokens,
        "sampling.seed": seed,
        "engine.chat_template": chat_template,
    }
    conversation = Conversation(*_open(model, set_ or [], given), system)
    with conversation.llm:
        if asked is not None:
            conversation.answer(asked)
        else:
            _talk(conversation, model)


def _question(argument: str | None) -> str | None:
    """What to ask once: the argument, the pipe, or both; None on a terminal alone."""
    piped = "" if sys.stdin is None or sys.stdin.isatty() else sys.stdin.read().strip()
    parts = [part for part in (argument, piped) if part]
    if not parts and (argument is not None or not (sys.stdin and sys.stdin.isatty())):
        raise typer.BadParameter("the question is empty.")
    return "\n\n".join(parts) or None


def _open(model: str, overrides: list[str], given: dict[str, Any]) -> "tuple[LLM, SamplingParams]":
    from yearling.cli.progress import download_bar, notice_when_slow
    from yearling.core.config import Config, load_config
    from yearling.models.store import ensure
    from yearling.serving.llm import LLM
    from yearling.serving.model import ModelOptions
    from yearling.serving.request import SamplingParams

    class ChatSettings(Config):
        """What `--set` reaches."""

        sampling: SamplingParams = SamplingParams()
        engine: ModelOptions = ModelOptions()

    options = [f"{key}={json.dumps(value)}" for key, value in given.items() if value is not None]
    settings = load_config(ChatSettings, None, ["sampling.temperature=0.6", *overrides, *options])
    with download_bar(model) as progress:
        path = ensure(model, progress)
    with notice_when_slow(f"loading {model} …"):
        llm = LLM(path, **settings.engine.model_dump(exclude_unset=True))
    return llm, settings.sampling


class Conversation:
    """A conversation and the model it is held with."""

    def __init__(self, llm: "LLM", sampling: "SamplingParams", system: str | None) -> None:
        self.llm = llm
        self._sampling = sampling
        self._opening = [] if system is None else [{"role": "system", "content": system}]
        self._messages = list(self._opening)

    def start_over(self) -> None:
        """Forget all but the system message."""
        self._messages = list(self._opening)

    def answer(self, question: str) -> None:
        """Ask, and print the answer as it comes; what has come stays in the conversation."""
        messages = [*self._messages, {"role": "user", "content": question}]
        pieces: list[str] = []
        with _interruptible() as is_stopped:
            for piece in self.llm.stream(messages, self._sampling):
                pieces.append(piece)
                sys.stdout.write(piece)
                sys.stdout.flush()
                if is_stopped():
                    break
        print(flush=True)
        self._messages = [*messages, {"role": "assistant", "content": "".join(pieces)}]


@contextmanager
def _interruptible() -> Iterator[Any]:
    """Give a function that tells whether Ctrl-C was pressed; a second press ends the program.

    The first one only leaves a note, so that it cannot cut the engine in the middle of a step.
    """
    presses = 0

    def note(number: int, frame: "FrameType | None") -> None:
        nonlocal presses
        presses += 1
        if presses > 1:
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, note)
    try:
        yield lambda: presses > 0
    finally:
        signal.signal(signal.SIGINT, before)


def _talk(conversation: Conversation, model: str) -> None:
    import readline  # noqa: F401 - gives input() editing and history

    from yearling.core.errors import RequestError

    print(f"{model}. {_HELP}")
    while True:
        try:
            line = input("> ").strip()
        except EOFError:
            print()
            return
        except KeyboardInterrupt:
            print(f"\n{_HELP}")
            continue
        if line == "/quit":
            return
        if line == "/new":
            conversation.start_over()
        elif line:
            try:
                conversation.answer(line)
            except RequestError as error:
                print(f"error: {error}", file=sys.stderr)
