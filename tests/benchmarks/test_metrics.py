import pytest

from benchmarks.serving.metrics import METRICS, best_of, ratio, summarise

NAMES = "decode_1 decode_8 decode_32 prefill_1000 ttft ttft_shared_prefix load_seconds peak_rss_mb"


def test_metrics_are_those_of_the_json_file() -> None:
    assert " ".join(METRICS) == NAMES


@pytest.mark.parametrize("name", METRICS)
def test_ratio_is_above_one_exactly_when_ours_is_better(name: str) -> None:
    better, worse = (2.0, 1.0) if METRICS[name].is_higher_better else (1.0, 2.0)
    assert ratio(name, ours=better, theirs=worse) == 2.0
    assert ratio(name, ours=worse, theirs=better) == 0.5


@pytest.mark.parametrize("name", METRICS)
def test_ratio_against_the_better_of_two_is_the_lower_one(name: str) -> None:
    best = best_of(name, [3.0, 7.0])
    assert ratio(name, 5.0, best) == min(ratio(name, 5.0, 3.0), ratio(name, 5.0, 7.0))


def test_ratio_refuses_a_figure_no_run_can_give() -> None:
    with pytest.raises(ValueError, match=r"ttft: figures must be positive, got 0\.0"):
        ratio("ttft", ours=0.0, theirs=1.0)


def test_summary_is_a_median_not_a_mean() -> None:
    summary = summarise([1.0, 100.0, 2.0, 3.0, 2.5])
    assert (summary.median, summary.low, summary.high, summary.count) == (2.5, 1.0, 100.0, 5)


def test_summary_of_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="never ran"):
        summarise([])
