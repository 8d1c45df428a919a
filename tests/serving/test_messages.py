"""Frames: every message comes back as it went, however the bytes arrive."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yearling.core.errors import CapacityError, ContextLengthError, EngineError, YearlingError
from yearling.serving.admission import AdmissionLimits
from yearling.serving.engine import EngineStats
from yearling.serving.messages import (
    Add,
    Cancel,
    Command,
    Embed,
    ErrorReport,
    FrameReader,
    Ready,
    Refused,
    Report,
    Start,
    StartFailed,
    StepReport,
    Stop,
    decode_command,
    decode_report,
    encode_frame,
)
from yearling.serving.request import (
    EmbeddingRequest,
    GenerationRequest,
    OutputEvent,
    PromptScore,
    SamplingParams,
    TokenLogprob,
    Usage,
)

COMMANDS: list[Command] = [
    Start("module:function", {"path": "x", "options": {"context": None}}),
    Add(
        GenerationRequest(
            "r",
            [1, 2, 3],
            SamplingParams(stop=("a", "b"), logit_bias={5: -1.0}, seed=-(2**63), min_p=0.1),
            salt="account",
            is_prompt_only=True,
        )
    ),
    Embed(EmbeddingRequest("e", [[101, 7, 102], [101, 102]])),
    Cancel("r"),
    Stop(),
]
SCORE = TokenLogprob(3, -1.5, ((3, -1.5), (4, -2.0)))
REPORTS: list[Report] = [
    Ready(AdmissionLimits(2048, None, 100), EngineStats(num_blocks=4)),
    StartFailed(ErrorReport("ModelFormatError", "bad")),
    Refused("r", ErrorReport("RequestError", "no", "prompt")),
    StepReport(
        [
            OutputEvent("r", "é", (1, 2), (SCORE,)),
            OutputEvent("r", prompt_score=PromptScore((None, SCORE))),
            OutputEvent("r", finish_reason="error", usage=Usage(1, 2, 3), error="why"),
            OutputEvent("e", finish_reason="stop", usage=Usage(5, 0), vectors=b"\x00\xff"),
        ],
        EngineStats(step_seconds=0.5),
    ),
]


def body(message: Command | Report) -> bytes:
    (found,) = FrameReader().feed(encode_frame(message))
    return found


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: type(command).__name__)
def test_command_comes_back_as_it_went(command: Command) -> None:
    assert decode_command(body(command)) == command


@pytest.mark.parametrize("report", REPORTS, ids=lambda report: type(report).__name__)
def test_report_comes_back_as_it_went(report: Report) -> None:
    assert decode_report(body(report)) == report


@given(st.lists(st.integers(1, 400), max_size=30))
def test_frames_may_arrive_in_any_portions(sizes: list[int]) -> None:
    data = b"".join(map(encode_frame, REPORTS))
    reader = FrameReader()
    found = []
    for size in [*sizes, len(data)]:
        portion, data = data[:size], data[size:]
        found.extend(reader.feed(portion))
    assert [decode_report(item) for item in found] == REPORTS


def test_impossible_length_is_refused_before_it_is_read() -> None:
    with pytest.raises(ValueError, match="a frame of 4294967295 bytes"):
        list(FrameReader().feed(b"\xff\xff\xff\xff"))


@pytest.mark.parametrize(
    "error",
    [
        ContextLengthError("too long", parameter="prompt"),
        CapacityError("full"),
        YearlingError("other"),
    ],
)
def test_typed_error_keeps_its_type(error: YearlingError) -> None:
    found = ErrorReport.of(error).to_error()
    assert (type(found), str(found)) == (type(error), str(error))
    assert getattr(found, "parameter", None) == getattr(error, "parameter", None)


def test_foreign_error_becomes_an_engine_error_that_names_it() -> None:
    found = ErrorReport.of(ZeroDivisionError("by zero")).to_error()
    assert (type(found), str(found)) == (EngineError, "ZeroDivisionError: by zero")
