"""Prompts of training, serving and transformers: equal for a real model, and told where not."""

from pathlib import Path

import pytest

from yearling.evaluation import prompt_parity
from yearling.evaluation.prompt_parity import CONVERSATIONS, Comparison, compare_prompts

pytest.importorskip("transformers")


def test_prompts_of_the_embedded_model_are_the_same_everywhere(smollm2_path: Path) -> None:
    comparisons = compare_prompts(str(smollm2_path))
    assert [comparison.name for comparison in comparisons] == list(CONVERSATIONS)
    for comparison in comparisons:
        ways = {"training", "serving", "transformers"}
        ways -= {"transformers"} if comparison.name == "control tokens in text" else set()
        assert set(comparison.ids) == ways
        assert comparison.is_same, (comparison.name, comparison.difference())


def test_prompts_are_the_same_with_another_template(smollm2_path: Path) -> None:
    comparisons = compare_prompts(str(smollm2_path), "vicuna")
    assert all(comparison.is_same for comparison in comparisons)


def test_another_tokenizer_in_one_way_is_found(
    smollm2_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = prompt_parity._transformers
    monkeypatch.setattr(
        prompt_parity,
        "_transformers",
        lambda path, template: usual(path, template.replace("<|im_end|>", "<|im_end|> ")),
    )
    comparison = compare_prompts(str(smollm2_path))[0]
    assert not comparison.is_same
    assert "transformers ' " in comparison.difference()


def test_difference_names_the_first_token_or_the_refusal() -> None:
    texts = {1: "a", 2: "b"}.__getitem__
    found = Comparison("x", {"training": [1, 2], "serving": [1, 1]}, {}, texts)
    assert found.difference() == "token 1: training 'b' (2), serving 'a' (1)"
    shorter = Comparison("x", {"training": [1, 2], "serving": [1]}, {}, texts)
    assert shorter.difference() == "token 1: training 'b' (2), serving has ended"
    refused = Comparison("x", {"training": [1]}, {"serving": "no system here"}, texts)
    assert refused.difference() == "serving refuses: no system here"
    assert Comparison("x", {}, {"training": "no", "serving": "no"}, texts).is_same
