"""The table of limits: every boundary, from both sides."""

import pytest

from yearling.core.errors import (
    CapacityError,
    ContextLengthError,
    RequestError,
    UnsupportedError,
)
from yearling.serving.admission import AdmissionLimits
from yearling.serving.request import GenerationRequest, SamplingParams

LIMITS = AdmissionLimits(context=10, max_requests=2, vocabulary=100)


def request(
    num_prompt: int, *, is_prompt_only: bool = False, **sampling: object
) -> GenerationRequest:
    params = SamplingParams.model_validate(sampling)
    return GenerationRequest("r", [1] * num_prompt, params, is_prompt_only=is_prompt_only)


@pytest.mark.parametrize(
    ("num_prompt", "max_tokens", "is_prompt_only"),
    [(1, None, False), (9, None, False), (9, 1, False), (4, 6, False), (10, None, True)],
)
def test_check_takes_what_just_fits(
    num_prompt: int, max_tokens: int | None, is_prompt_only: bool
) -> None:
    LIMITS.check(request(num_prompt, max_tokens=max_tokens, is_prompt_only=is_prompt_only), 1)


@pytest.mark.parametrize(
    ("num_prompt", "max_tokens", "is_prompt_only", "parameter"),
    [
        (10, None, False, "prompt"),
        (9, 2, False, "max_tokens"),
        (4, 7, False, "max_tokens"),
        (11, None, True, "prompt"),
    ],
)
def test_check_refuses_one_token_more(
    num_prompt: int, max_tokens: int | None, is_prompt_only: bool, parameter: str
) -> None:
    with pytest.raises(ContextLengthError) as caught:
        LIMITS.check(request(num_prompt, max_tokens=max_tokens, is_prompt_only=is_prompt_only), 0)
    assert caught.value.parameter == parameter


def test_check_refuses_when_full() -> None:
    with pytest.raises(CapacityError, match=r"2 requests.*\(2\): try again"):
        LIMITS.check(request(1), 2)
    AdmissionLimits(10, None).check(request(1), 10**6)


@pytest.mark.parametrize("token", [-1, 100])
def test_check_refuses_ids_outside_the_vocabulary(token: int) -> None:
    with pytest.raises(RequestError, match=f"stop_token_ids holds token id {token}, .* 0 to 99"):
        LIMITS.check(request(1, stop_token_ids=(token,)), 0)
    AdmissionLimits(10, None, None).check(request(1, stop_token_ids=(token,)), 0)


def test_answer_is_bounded_by_the_smaller_of_room_and_wish() -> None:
    assert LIMITS.max_new_tokens(request(4)) == 6
    assert LIMITS.max_new_tokens(request(4, max_tokens=3)) == 3


@pytest.mark.parametrize("num_prompt", [4, 5])
def test_whole_prompt_is_bounded_by_what_a_step_holds(num_prompt: int) -> None:
    limits = AdmissionLimits(10, None, whole_prompt=4)
    if num_prompt == 4:
        limits.check(request(4), 0)
        return
    with pytest.raises(ContextLengthError, match=r"5 tokens.*one step, which holds 4") as caught:
        limits.check(request(5), 0)
    assert caught.value.parameter == "prompt"


@pytest.mark.parametrize("is_prompt_only", [True, False])
def test_scores_of_a_whole_prompt_are_refused(is_prompt_only: bool) -> None:
    limits = AdmissionLimits(10, None, whole_prompt=4)
    sampling = {} if is_prompt_only else {"prompt_logprobs": 0}
    with pytest.raises(UnsupportedError, match="cannot score a prompt") as caught:
        limits.check(request(2, is_prompt_only=is_prompt_only, **sampling), 0)
    assert caught.value.parameter == "prompt_logprobs"


def test_encoder_generates_nothing() -> None:
    with pytest.raises(UnsupportedError, match="is an encoder"):
        AdmissionLimits(10, None, can_generate=False).check(request(2), 0)
