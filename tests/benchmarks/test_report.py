import json

import pytest

from benchmarks.serving.machine import Machine
from benchmarks.serving.metrics import METRICS, Summary
from benchmarks.serving.neighbour import NeighbourFigures
from benchmarks.serving.report import Report


def summary(median: float) -> Summary:
    return Summary(median, median * 0.9, median * 1.2, 5)


@pytest.fixture
def report() -> Report:
    def engine(value: float) -> dict[str, Summary]:
        return {name: summary(value) for name in METRICS}

    return Report(
        summaries={
            "yearling": engine(30.0),
            "llama.cpp/Q4_1": engine(20.0),
            "llama.cpp/Q4_0": engine(40.0),
            "openvino": engine(15.0),
        },
        descriptions={"yearling": "default flags"},
        machine=Machine("some processor", 2, 30.0, 300.0),
        weight_bytes=10**8,
        multiplies=10**8,
        warnings=["decode_1: other processes took 40% of one core"],
        neighbour={"yearling": NeighbourFigures(100.0, 60.0, 50.0)},
    )


def test_json_holds_results_and_ratios_of_every_metric(report: Report) -> None:
    written = json.loads(json.dumps(report.as_json()))
    assert set(written["ratios"]) == set(METRICS)
    assert {"yearling", "llama.cpp", "openvino"} <= set(written["results"])
    for figures in written["results"].values():
        assert set(figures) == set(METRICS)
    assert written["ratios"]["decode_1"] == {"llama.cpp": 0.75, "openvino": 2.0}


def test_the_better_form_of_llama_cpp_counts_metric_by_metric(report: Report) -> None:
    medians = report.medians()["llama.cpp"]
    assert medians["decode_1"] == 40.0  # tokens/s: the higher
    assert medians["ttft"] == 20.0  # seconds: the lower
    assert report.ratios()["ttft"]["llama.cpp"] == pytest.approx(20 / 30)


def test_shares_relate_ours_to_the_machine(report: Report) -> None:
    shares = report.shares()
    assert shares["decode_1_of_bandwidth"] == pytest.approx(0.1)
    assert shares["prefill_1000_of_int8"] == pytest.approx(0.02)


def test_text_shows_tables_shares_and_warnings(report: Report) -> None:
    text = report.as_text()
    for expected in (
        "decode_32",
        "llama.cpp/Q4_0",
        "0.75",
        "decode_1_of_bandwidth 10%",
        "60.0 (60%)",
        "WARNING: decode_1: other processes took 40%",
    ):
        assert expected in text


def test_ours_alone_has_a_report_without_ratios(report: Report) -> None:
    alone = Report(
        summaries={"yearling": report.summaries["yearling"]},
        descriptions={},
        machine=Machine("some processor", 2, None, None, "no compiler"),
        weight_bytes=1,
        multiplies=1,
    )
    assert alone.ratios()["decode_1"] == {}
    assert "No peers were asked for" in alone.as_text()
