"""The template of training against that of serving: told when they differ, silent otherwise."""

import json
from pathlib import Path

from yearling.models.trained_template import RUN_FILE, hash_template, template_change


def test_other_template_is_told_with_both_hashes(tmp_path: Path) -> None:
    assert template_change(tmp_path, "b") is None  # not trained here
    (tmp_path / RUN_FILE).write_text(json.dumps({"chat_template": hash_template("a")}))
    assert template_change(tmp_path, "a") is None
    said = template_change(tmp_path, "b")
    assert said is not None
    assert f"trained with chat template {hash_template('a')[:12]}" in said
    assert f"asked through {hash_template('b')[:12]}" in said


def test_card_without_a_template_says_nothing(tmp_path: Path) -> None:
    (tmp_path / RUN_FILE).write_text(json.dumps({"chat_template": None}))
    assert template_change(tmp_path, "b") is None


def test_damaged_card_does_not_keep_a_model_from_opening(tmp_path: Path) -> None:
    (tmp_path / RUN_FILE).write_text("{")
    assert "is not known: " in (template_change(tmp_path, "b") or "")
