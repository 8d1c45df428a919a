import json
from dataclasses import replace

import pytest

from benchmarks.training.report import Report, Sample


@pytest.fixture
def report() -> Report:
    return Report(
        samples={
            "yearling": [Sample(150.0, 2_000.0), Sample(160.0, 2_100.0), Sample(90.0, 1_900.0)],
            "trl/1-padded": [Sample(100.0, 2_900.0), Sample(80.0, 2_800.0)],
            "trl/4-packed": [Sample(60.0, 2_200.0)],
        },
        losses={"yearling": [2.0, 1.01], "trl/1-padded": [2.0, 1.0]},
        descriptions={"yearling": "default settings"},
        warnings=["speed of yearling: other processes took 40% of one core"],
    )


def with_ours(report: Report, *samples: Sample) -> Report:
    return replace(report, samples={**report.samples, "yearling": samples})


def test_the_peer_is_as_fast_as_its_fastest_setting_and_as_lean_as_its_leanest(
    report: Report,
) -> None:
    assert report.results()["trl"] == {"tokens_per_second": 90.0, "peak_rss_mb": 2_200.0}
    assert report.results()["yearling"] == {"tokens_per_second": 150.0, "peak_rss_mb": 2_100.0}
    assert report.ratios()["trl"] == {
        "tokens_per_second": pytest.approx(150 / 90),
        "peak_rss_mb": pytest.approx(2_200 / 2_100),
    }
    assert report.has_passed


@pytest.mark.parametrize(
    "sample", [Sample(134.0, 2_000.0), Sample(150.0, 2_201.0)], ids=["slow", "large"]
)
def test_slower_or_larger_than_promised_fails(report: Report, sample: Sample) -> None:
    failed = with_ours(report, sample)
    assert not failed.has_passed
    assert "\nFAILED\n" in failed.as_text()


@pytest.mark.parametrize("last", [1.04, 0.96])
def test_another_loss_fails_either_way(report: Report, last: float) -> None:
    other = replace(report, losses={**report.losses, "yearling": [2.0, last]})
    assert other.loss_difference() == pytest.approx((2.0 + last) / 3.0 - 1)
    assert not other.has_passed


def test_json_holds_figures_ratios_and_losses(report: Report) -> None:
    written = json.loads(json.dumps(report.as_json()))
    assert set(written["results"]) == {"yearling", "trl/1-padded", "trl/4-packed", "trl"}
    for figures in [*written["results"].values(), *written["ratios"].values()]:
        assert set(figures) == {"tokens_per_second", "peak_rss_mb"}
    assert written["losses"]["yearling"] == [2.0, 1.01]
    assert written["has_passed"] is True


def test_text_shows_figures_limits_and_warnings(report: Report) -> None:
    text = report.as_text()
    for expected in (
        "150.0 tokens/s",
        "ours / fastest of trl: 1.67 (at least 1.5)",
        "leanest of trl / ours: 1.05 (at least 1)",
        "mean loss over 2 steps of the same batches: +0.33%",
        "\nok\n",
        "WARNING: speed of yearling",
    ):
        assert expected in text


def test_ours_alone_has_a_report_without_ratios(report: Report) -> None:
    alone = replace(report, samples={"yearling": report.samples["yearling"]}, losses={})
    assert alone.ratios() == {}
    assert alone.loss_difference() is None
    assert alone.has_passed
