"""Completion requests in, legacy log-probabilities out."""

import pytest

from yearling.core.errors import RequestError
from yearling.server.limits import Limits
from yearling.serving.request import OutputEvent, PromptScore, TokenLogprob, Usage
from yearling.wire.openai.answers import CompletionFold, EchoedPrompt
from yearling.wire.openai.completions import parse_completion_request
from yearling.wire.openai.generation import AnswerHead

LIMITS = Limits().for_requests()
BODY = {"model": "m", "prompt": "Once"}


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        ("a", ("a",)),
        (["a", "b"], ("a", "b")),
        ([1, 2], ((1, 2),)),
        ([[1, 2], [3]], ((1, 2), (3,))),
        (["a", [3]], ("a", (3,))),
    ],
)
def test_prompt_takes_all_forms(prompt: object, prompts: tuple) -> None:
    assert parse_completion_request(BODY | {"prompt": prompt}, LIMITS).prompts == prompts


@pytest.mark.parametrize(
    "prompt",
    [[], {}, 5, True, [[]], [[1], []], [1, "a"], [1.5], [-1], [[1, True]], [None], ["a"] * 65],
    ids=str,
)
def test_wrong_prompt_is_refused(prompt: object) -> None:
    with pytest.raises(RequestError) as caught:
        parse_completion_request(BODY | {"prompt": prompt}, LIMITS)
    assert (caught.value.parameter or "").startswith("prompt")


def test_max_tokens_is_16_unless_set() -> None:
    assert parse_completion_request(BODY, LIMITS).sampling.max_tokens == 16


def test_max_tokens_0_with_echo_scores_only() -> None:
    body = BODY | {"max_tokens": 0, "echo": True, "logprobs": 1}
    request = parse_completion_request(body, LIMITS)
    assert request.is_prompt_only
    assert request.sampling.prompt_logprobs == 1


def test_max_tokens_0_alone_is_refused() -> None:
    with pytest.raises(RequestError, match="without echo"):
        parse_completion_request(BODY | {"max_tokens": 0}, LIMITS)


def test_best_of_makes_more_answers_than_are_given() -> None:
    assert parse_completion_request(BODY | {"best_of": 1}, LIMITS).num_choices == 1
    request = parse_completion_request(BODY | {"best_of": 3, "n": 2}, LIMITS)
    assert (request.num_choices, request.num_returned) == (3, 2)
    assert (request.sampling.logprobs, request.num_logprobs) == (0, None)
    for more in ({"best_of": 1, "n": 2}, {"best_of": 99}, {"best_of": 2, "stream": True}):
        with pytest.raises(RequestError, match="best_of is") as caught:
            parse_completion_request(BODY | more, LIMITS)
        assert caught.value.parameter == "best_of"


def test_likeliest_answers_come_best_first() -> None:
    fold = CompletionFold(
        AnswerHead("cmpl-1", 5, "m", "fp"),
        [EchoedPrompt("Once", [1, 2])],
        is_echoed=False,
        num_choices=4,
        num_returned=2,
        num_logprobs=None,
        token_bytes=BYTES.__getitem__,
    )
    for index, logprobs in enumerate([(-2.0,), (-0.5, -0.7), (-3.0, -0.1), (-0.4, -0.6, -0.5)]):
        entries = tuple(TokenLogprob(1, logprob) for logprob in logprobs)
        tokens = (1,) * len(entries)
        usage = Usage(2, len(entries))
        fold.add(
            index,
            OutputEvent("r", str(index), tokens, entries, finish_reason="length", usage=usage),
        )
    body = fold.body()
    assert [choice["text"] for choice in body["choices"]] == ["3", "1"]
    assert [choice["index"] for choice in body["choices"]] == [0, 1]
    assert body["choices"][0]["logprobs"] is None
    assert body["usage"]["completion_tokens"] == 8, "of all that were made"


BYTES = {1: b"On", 2: b"ce", 3: "é".encode()[:1], 4: "é".encode()[1:], 0: b"<end>"}


def _fold(*, is_echoed: bool) -> CompletionFold:
    return CompletionFold(
        AnswerHead("cmpl-1", 5, "m", "fp"),
        [EchoedPrompt("Once", [1, 2])],
        is_echoed=is_echoed,
        num_choices=1,
        num_returned=1,
        num_logprobs=2,
        token_bytes=BYTES.__getitem__,
    )


SCORE = OutputEvent(
    "r", prompt_score=PromptScore((None, TokenLogprob(2, -0.25, ((2, -0.25), (1, -2.0)))))
)
ANSWER = (
    OutputEvent("r", "", (3,), (TokenLogprob(3, -0.5, ((3, -0.5), (4, -1.0))),)),
    OutputEvent("r", "é", (4,), (TokenLogprob(4, -1.5, ((3, -0.5), (1, -1.0))),)),
    OutputEvent("r", "", (0,), (TokenLogprob(0, -0.1),), finish_reason="stop", usage=Usage(2, 3)),
)


def test_echo_puts_the_prompt_and_its_scores_first() -> None:
    fold = _fold(is_echoed=True)
    for event in (SCORE, *ANSWER):
        fold.add(0, event)
    choice = fold.body()["choices"][0]
    assert choice["text"] == "Onceé"
    assert choice["logprobs"] == {
        "tokens": ["On", "ce", r"bytes:\xc3", r"bytes:\xa9", "<end>"],
        "token_logprobs": [None, -0.25, -0.5, -1.5, -0.1],
        "top_logprobs": [
            None,
            {"ce": -0.25, "On": -2.0},
            {r"bytes:\xc3": -0.5, r"bytes:\xa9": -1.0},
            {r"bytes:\xc3": -0.5, "On": -1.0, r"bytes:\xa9": -1.5},
            {"<end>": -0.1},
        ],
        "text_offset": [0, 2, 4, 4, 5],
    }


def test_offsets_without_echo_start_after_the_prompt() -> None:
    fold = _fold(is_echoed=False)
    for event in ANSWER:
        fold.add(0, event)
    choice = fold.body()["choices"][0]
    assert choice["text"] == "é"
    assert choice["logprobs"]["text_offset"] == [4, 4, 5]


def test_stream_put_together_is_the_whole_body() -> None:
    stream, whole = _fold(is_echoed=True), _fold(is_echoed=True)
    text, tokens = "", []
    for event in (SCORE, *ANSWER):
        whole.add(0, event)
        for chunk in stream.event(0, event):
            piece = chunk["choices"][0]
            text += piece["text"]
            tokens += (piece["logprobs"] or {"tokens": []})["tokens"]
    choice = whole.body()["choices"][0]
    assert (text, tokens) == (choice["text"], choice["logprobs"]["tokens"])
