"""The conversion benchmark: a changed token, code or format fails, and is named."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import peers
from benchmarks.conversion import forms
from benchmarks.conversion.comparison import Comparison, Difference, Report, compare_answers
from benchmarks.conversion.forms import Files, Trial
from benchmarks.conversion.run import compare_trials, cut_prompts
from benchmarks.serving.engine_process import BenchmarkError, EngineCommand
from yearling.models.conversion_check import FormatChange

PROMPTS = [(1, 2), (5, 6, 7), (8, 9, 10, 11)]
FILES = Files(Path("/m/original.gguf"), Path("/t/folder"), Path("/t/written.gguf"))


def trial(name: str, before: str, **after: str) -> Trial:
    def command(model: str) -> EngineCommand:
        module = "tests.benchmarks.fake_answering_engine"
        return EngineCommand(name, Path(sys.executable), module, Path("/models") / model)

    return Trial(command(before), {label: command(model) for label, model in after.items()})


def compared(*wanted: Trial) -> tuple[list[Comparison], list[str]]:
    return compare_trials(wanted, PROMPTS, 5, progress=lambda text: None)


def report(*comparisons: Comparison) -> Report:
    kept = FormatChange("Q4_1", "Q4_1", 210, 1000, 0, 0, 0.0)
    widened = FormatChange("Q4_1", "F32", 210, 1000, 0, None, 0.0)
    return Report(
        model="m.gguf",
        changes={"folder": (widened,), "GGUF": (kept,)},
        comparisons=comparisons or [Comparison("ours", "GGUF", 50, 50, None)],
        new_tokens=64,
        prompt_tokens=(8, 104),
        descriptions=["ours: fake"],
        seconds=12.0,
    )


def test_an_engine_that_answers_the_same_passes() -> None:
    comparisons, descriptions = compared(trial("fake", "right", folder="right", GGUF="right"))
    assert comparisons == [
        Comparison("fake", target, num_prompts=3, num_same=3, first=None)
        for target in ("folder", "GGUF")
    ]
    assert descriptions == ["fake: fake right"]
    assert report(*comparisons).has_passed


def test_the_first_difference_is_named_with_both_tokens() -> None:
    comparisons, _ = compared(
        trial("one", "right", GGUF="right"), trial("other", "right", folder="right", GGUF="wrong-3")
    )
    assert [part.has_passed for part in comparisons] == [True, True, False]
    wrong = comparisons[-1]
    assert (wrong.num_same, wrong.first) == (1, Difference(1, 3, before=11, after=0))
    assert not report(*comparisons).has_passed
    assert str(wrong).startswith("WRONG other, GGUF ")
    assert str(wrong).endswith(
        "1 of 3 prompts answered the same; first difference: prompt 1, token 3: 11 before, 0 after"
    )


def test_an_engine_that_makes_too_few_tokens_is_named() -> None:
    with pytest.raises(BenchmarkError, match=r"fake made answers of \[4\] tokens to 3 prompts; as"):
        compared(trial("fake", "short", GGUF="short"))


def test_answers_of_unequal_work_are_not_compared() -> None:
    with pytest.raises(ValueError, match="shorter"):
        compare_answers("ours", "GGUF", [[1, 2], [3]], [[1, 2]])
    with pytest.raises(ValueError, match="shorter"):
        compare_answers("ours", "GGUF", [[1, 2]], [[1]])


def test_changed_numbers_codes_or_formats_fail() -> None:
    whole = report()
    assert whole.has_passed
    kept, widened = whole.changes["GGUF"][0], whole.changes["folder"][0]
    for changes in (
        {"folder": (widened,), "GGUF": (kept, replace(kept, changed_codes=32))},
        {"folder": (widened,), "GGUF": (widened,)},
        {"folder": (replace(widened, changed_values=1),), "GGUF": (kept,)},
    ):
        assert not replace(whole, changes=changes).has_passed


def test_report_prints_codes_and_verdicts() -> None:
    text = report().as_text()
    assert "  GGUF   Q4_1 -> Q4_1: 210 weights, 0 of 1000 numbers changed, 0 codes changed" in text
    assert "  ok    ours, GGUF               50 of 50 prompts answered the same\nok, after" in text
    wrong = report(Comparison("ours", "GGUF", 50, 49, Difference(7, 0, 1, 2)))
    assert "\nFAILED, after 12 s\n" in wrong.as_text()
    figures = json.loads(json.dumps(wrong.as_json()))
    assert figures["comparisons"][0]["first"]["prompt"] == 7
    assert figures["has_passed"] is figures["comparisons"][0]["has_passed"] is False
    assert figures["changes"]["GGUF"][0]["changed_codes"] == 0


def test_prompts_have_many_lengths_and_stay_inside_the_text() -> None:
    prompts = cut_prompts(range(5000), 50)
    lengths = {len(prompt) for prompt in prompts}
    assert len(lengths) == 50
    assert min(lengths) == 8
    assert 90 < max(lengths) <= 104
    assert all(prompt == tuple(range(prompt[0], prompt[0] + len(prompt))) for prompt in prompts)
    assert len({prompt[0] for prompt in prompts}) == 50
    assert max(prompts[-1]) > 4700


def test_every_engine_reads_the_original_and_what_was_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(peers, "_ENVIRONMENT", Path(sys.prefix))
    wanted = forms.trials(FILES)
    assert [(trial.before.name, *trial.after) for trial in wanted] == [
        ("yearling", "GGUF"),
        ("yearling float32", "folder"),
        ("llama.cpp", "GGUF"),
        ("transformers", "folder", "GGUF"),
    ]
    models = {"folder": FILES.folder, "GGUF": FILES.written}
    for trial in wanted:
        assert trial.before.model == FILES.original
        for target, command in trial.after.items():
            assert command == replace(trial.before, model=models[target])
    assert wanted[1].before.options == {"is_float32": 1}
