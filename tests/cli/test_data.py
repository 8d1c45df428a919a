"""`yearling data`: rows as the model sees them, and every row accounted for."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from yearling.cli.data import app

_CHAT = {
    "messages": [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello <|im_end|> there"},
    ]
}
_PAIR = {"prompt": "Q", "chosen": "good", "rejected": "bad"}
_TEXT = {"text": "Once upon a time"}


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return _write(tmp_path / "good.jsonl", [_CHAT, _PAIR, _TEXT])


def _write(path: Path, rows: list[object]) -> Path:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return path


def _run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_show_marks_the_tokens_with_loss(good: Path, smollm2_path: Path) -> None:
    shown = _run("show", good, "--model", smollm2_path, "--mask")
    assert shown.exit_code == 0, shown.output
    assert "<|im_start|>assistant\n⟦Hello| <|||im|_|end|||>| there|<|im_end|>⟧" in shown.output
    assert "chosen: 34 tokens, 2 with loss" in shown.output
    assert "⟦bad|<|im_end|>⟧" in shown.output
    assert f"{good}:3  5 tokens, 4 with loss" in shown.output
    assert "\ntemplate and tokenizer " in shown.output


def test_show_without_mask_is_the_text(good: Path, smollm2_path: Path) -> None:
    shown = _run("show", good, "--model", smollm2_path, "--rows", 1)
    assert "<|im_start|>assistant\nHello <|im_end|> there<|im_end|>" in shown.output
    assert "⟦" not in shown.output
    assert "good.jsonl:2" not in shown.output


def test_show_takes_a_template_by_name(good: Path, smollm2_path: Path) -> None:
    shown = _run("show", good, "--model", smollm2_path, "--chat-template", "alpaca", "--rows", 1)
    assert "### Instruction:\nHi\n\n### Response:Hello" in shown.output


def test_check_counts_every_row(good: Path, smollm2_path: Path) -> None:
    checked = _run("check", good, "--model", smollm2_path)
    assert checked.exit_code == 0, checked.output
    lines = {line[:16].strip(): line[16:].strip() for line in checked.output.splitlines()}
    assert (lines["rows in"], lines["kept"], lines["dropped"]) == ("3", "3", "0")
    assert lines["tokens a row"].startswith("least 5, median ")


def test_check_fails_above_max_drop_and_names_rows(tmp_path: Path, smollm2_path: Path) -> None:
    unanswered = {"messages": [{"role": "user", "content": "Hi"}]}
    path = _write(tmp_path / "bad.jsonl", [_CHAT, "not json", unanswered, _TEXT])
    checked = _run("check", path, "--model", smollm2_path)
    assert checked.exit_code == 1
    assert f"{path}:2" in checked.output
    assert f"{path}:3" in checked.output
    assert "error: 2 of 4 rows would be lost, 50.00%; max_drop allows 1.00%" in checked.output
    assert _run("check", path, "--model", smollm2_path, "--max-drop", 0.5).exit_code == 0


def test_check_prints_json(tmp_path: Path, smollm2_path: Path) -> None:
    long = {"prompt": "Q", "completion": "word " * 50}
    path = _write(tmp_path / "long.jsonl", [_CHAT, long])
    options = ("--model", smollm2_path, "--max-length", 48, "--overlong", "truncate", "--json")
    report = json.loads(_run("check", path, *options).stdout)
    assert report["is_good"]
    assert report["ledger"]["truncated"] == 1
    assert report["length_percentiles"]["100"] == 48
    assert len(report["template_hash"]) == 64


def test_long_documents_come_in_blocks(tmp_path: Path, smollm2_path: Path) -> None:
    path = _write(tmp_path / "text.jsonl", [{"text": "word " * 50}])
    checked = _run("check", path, "--model", smollm2_path, "--max-length", 16, "--json")
    report = json.loads(checked.stdout)
    assert (report["ledger"]["kept"], report["ledger"]["truncated"]) == (1, 0)
    assert report["length_percentiles"]["100"] == 16


def test_unknown_schema_is_refused(good: Path, smollm2_path: Path) -> None:
    shown = _run("show", good, "--model", smollm2_path, "--schema", "alpacca")
    assert shown.exit_code == 2
    assert "alpacca is none of auto, " in shown.output
