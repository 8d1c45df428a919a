import pytest

from benchmarks.serving.metrics import METRICS
from benchmarks.serving.workload import Timing, Workload, english_text


@pytest.fixture
def workload() -> Workload:
    return Workload(range(100_000), new_tokens=128)


def test_phases_cover_every_timed_metric(workload: Workload) -> None:
    timed = set(METRICS) - {"load_seconds", "peak_rss_mb"}
    assert {phase.metric for phase in workload.phases(0)} == timed


def test_phases_are_equal_for_every_engine_and_new_in_every_round(workload: Workload) -> None:
    assert workload.phases(3) == workload.phases(3)
    prompts = [phase.prompts for repeat in range(-1, 9) for phase in workload.phases(repeat)]
    assert len(set(prompts)) == len(prompts)


def test_cold_prompts_share_no_prefix(workload: Workload) -> None:
    cold = [
        prompt
        for repeat in range(-1, 9)
        for phase in workload.phases(repeat)
        if not phase.earlier
        for prompt in phase.prompts
    ]
    assert len({prompt[:4] for prompt in cold}) == len(cold)


def test_shared_prefix_phase_shares_1000_tokens_and_no_more(workload: Workload) -> None:
    phase = workload.phases(0)[-1]
    (prompt,) = phase.prompts
    assert phase.metric == "ttft_shared_prefix"
    assert phase.earlier[:1000] == prompt[:1000]
    assert phase.earlier[1000] != prompt[1000]
    assert len(prompt) == len(phase.earlier) == 1016


def test_figures_read_rates_and_times_off_a_call(workload: Workload) -> None:
    phases = {phase.metric: phase for phase in workload.phases(0)}
    assert phases["decode_8"].figure(Timing(2.0, 8 * 128, 1.0)) == 512.0
    assert phases["prefill_1000"].figure(Timing(4.0, 1, 1.0)) == 250.0
    assert phases["ttft"].figure(Timing(4.0, 4, 1.0, first_token_seconds=3.0)) == 3.0


def test_an_engine_that_makes_fewer_tokens_has_no_figure(workload: Workload) -> None:
    with pytest.raises(ValueError, match="made 127 tokens, not 128"):
        workload.one_stream(0).figure(Timing(1.0, 127, 1.0))


def test_an_engine_that_streams_nothing_has_no_time_to_first_token(workload: Workload) -> None:
    with pytest.raises(ValueError, match="streamed nothing"):
        workload.phases(0)[4].figure(Timing(1.0, 4, 1.0))


def test_english_text_is_long_enough_for_a_run() -> None:
    assert len(english_text()) > 300_000
