"""Every error has its status and OpenAI's shape."""

import inspect

import pytest

from yearling.core import errors
from yearling.wire.openai.errors import error_reply

# Whatever is not here is a failure of ours: 500.
EXPECTED = {
    "ModelNotFoundError": (404, "model_not_found"),
    "TemplateError": (400, "template_error"),
    "RequestError": (400, None),
    "ContextLengthError": (400, "context_length_exceeded"),
    "UnsupportedError": (400, "unsupported_parameter"),
    "CapacityError": (429, "rate_limit_exceeded"),
    "WorkerLostError": (503, "worker_lost"),
}


@pytest.mark.parametrize("name", errors.__all__)
def test_error_has_a_status(name: str) -> None:
    kind = getattr(errors, name)
    assert inspect.isclass(kind)
    reply = error_reply(kind("what happened"))
    assert (reply.status, reply.code) == EXPECTED.get(name, (500, "internal_error"))
    assert set(reply.payload()["error"]) == {"message", "type", "param", "code"}


def test_unexpected_error_tells_nothing() -> None:
    reply = error_reply(RuntimeError("the key is hunter2"))
    assert reply.status == 500
    assert "hunter2" not in str(reply.payload())


def test_only_refusals_that_may_pass_say_when_to_come_back() -> None:
    assert error_reply(errors.CapacityError("full")).retry_after_seconds is not None
    assert error_reply(errors.WorkerLostError("gone")).retry_after_seconds is not None
    assert error_reply(errors.RequestError("wrong")).retry_after_seconds is None
