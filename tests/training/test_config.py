"""The configuration of a run: defaults that suit, short forms, and errors that help."""

from pathlib import Path

import pytest

from yearling.core.config import load_config, save_config
from yearling.core.errors import ConfigError
from yearling.training.config import ADAPTER_LR, FULL_LR, TrainConfig

BARE = "model: smollm2\ndata: rows.jsonl\noutput: run\n"


def read(tmp_path: Path, text: str, *overrides: str) -> TrainConfig:
    file = tmp_path / "sft.yaml"
    file.write_text(text)
    return load_config(TrainConfig, file, overrides)


def refused(tmp_path: Path, text: str, *overrides: str) -> str:
    with pytest.raises(ConfigError) as error:
        read(tmp_path, text, *overrides)
    return str(error.value).replace(f"{tmp_path}/", "")


def test_three_lines_are_a_whole_configuration(tmp_path: Path) -> None:
    found = read(tmp_path, BARE)
    assert found.data.paths == ("rows.jsonl",)
    assert (found.method.name, found.adapter, found.optimizer.name) == ("sft", None, "adamw")
    assert found.optimizer.to_values()["lr"] == FULL_LR


def test_learning_rate_suits_what_is_trained_unless_it_is_given(tmp_path: Path) -> None:
    adapter = read(tmp_path, BARE + "adapter: lora\n")
    assert adapter.optimizer.to_values()["lr"] == ADAPTER_LR
    given = read(tmp_path, BARE + "adapter: lora\noptimizer: {lr: 3e-4, weight_decay: 0.1}\n")
    assert given.optimizer.to_values()["lr"] == 3e-4
    assert given.optimizer.name == "adamw"


def test_sections_of_names_have_the_keys_of_what_is_named(tmp_path: Path) -> None:
    found = read(
        tmp_path, BARE + "method: {name: dpo, beta: 0.3}\nadapter: {r: 4}\nschedule: wsd\n"
    )
    assert found.method.to_values()["beta"] == 0.3
    assert found.adapter is not None
    assert (found.adapter.name, found.adapter.to_values()["r"]) == ("lora", 4)
    assert found.schedule.name == "wsd"


def test_overrides_reach_into_short_forms(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        BARE + "adapter: lora\noptimizer: adamw\n",
        *("adapter.r=2", "optimizer.lr=0.5", "data.max_length=99", "method=fill-in-the-middle"),
    )
    assert found.adapter is not None
    assert found.adapter.to_values()["r"] == 2
    assert found.optimizer.to_values()["lr"] == 0.5
    assert (found.data.paths, found.data.max_length) == (("rows.jsonl",), 99)
    assert found.method.name == "fill_in_the_middle"


def test_saved_configuration_reads_back_as_the_same(tmp_path: Path) -> None:
    found = read(tmp_path, BARE + "adapter: {name: lora, r: 4}\ncheckpoint: 50\ncontext: 8192\n")
    save_config(found, tmp_path / "saved.yaml")
    assert load_config(TrainConfig, tmp_path / "saved.yaml") == found


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (
            "learning_rate: 1",
            "learning_rate is not a known key.\n  Set in sft.yaml:4. Nearest: optimizer.lr.",
        ),
        ("per_device_train_batch_size: 4", "Nearest: batch_tokens, or batch_rows."),
        ("num_train_epochs: 3", "Nearest: epochs."),
        ("lora_r: 3", "Nearest: adapter.r."),
        ("output_dir: x", "Nearest: output."),
        ("max_drop: 0.1", "Nearest: data.max_drop."),
        ("epoch: 3", "Nearest: epochs."),
        ("adapter: {name: lora, rnk: 3}", "adapter.rnk is not a known key.\n  Set in sft.yaml:4."),
        ("adapter: {name: lora, r: many}", "adapter.r=many: Input should be a valid integer"),
        ("method: spo", "method=spo: no method is named 'spo'. Nearest: "),
        ("method: [sft]", "write the name of the method"),
        ("schedule: cosin", "schedule.name=cosin"),
        ("micro_batch_tokens: 9000", "micro_batch_tokens=9000 is more than batch_tokens=8192"),
    ],
)
def test_wrong_keys_and_values_say_where_and_what_instead(
    tmp_path: Path, line: str, words: str
) -> None:
    said = refused(tmp_path, BARE + line + "\n")
    assert words in said
    assert "sft.yaml:4" in said


def test_wrong_override_names_itself(tmp_path: Path) -> None:
    said = refused(tmp_path, BARE + "optimizer: adamw\n", "optimizer.lr=fast")
    assert said.startswith("optimizer.lr=fast: ")
    assert "Set by --set optimizer.lr=fast" in said


def test_all_that_is_missing_is_told_at_once(tmp_path: Path) -> None:
    said = refused(tmp_path, "epochs: 2\n")
    for key in ("model", "output", "data"):
        assert f"{key} is missing: set it in a file or with --set {key}=VALUE." in said
