import re
from pathlib import Path

import pytest
import yaml
from pydantic import Field, SecretStr, ValidationError, model_validator

from yearling.core.config import Config, load_config, save_config
from yearling.core.errors import ConfigError


class Training(Config):
    """A section, with a check across two of its fields."""

    lr: float = Field(default=1e-4, gt=0)
    batch_tokens: int = 8192
    micro_batch_tokens: int = 4096

    @model_validator(mode="after")
    def _divides(self) -> "Training":
        if remainder := self.batch_tokens % self.micro_batch_tokens:
            raise ValueError(
                f"training.micro_batch_tokens={self.micro_batch_tokens} must divide "
                f"training.batch_tokens={self.batch_tokens} (remainder {remainder})"
            )
        return self


class Run(Config):
    """A whole configuration."""

    name: str = "run"
    note: str | None = None
    api_keys: tuple[SecretStr, ...] = ()
    training: Training = Training()


@pytest.fixture
def sft(tmp_path: Path) -> Path:
    path = tmp_path / "sft.yaml"
    path.write_text("name: sft\ntraining:\n  lr: 2e-4\n  batch_tokens: 4096\n")
    return path


def test_load_puts_overrides_over_file_over_defaults(sft: Path) -> None:
    run = load_config(Run, sft, ["training.batch_tokens=16384", "note=hello"])
    assert (run.name, run.note) == ("sft", "hello")
    assert run.training == Training(lr=2e-4, batch_tokens=16384, micro_batch_tokens=4096)


def test_load_without_a_file_gives_the_defaults() -> None:
    assert load_config(Run) == Run()


def test_empty_file_gives_the_defaults(tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    assert load_config(Run, tmp_path / "empty.yaml") == Run()


def test_config_is_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Run().name = "other"  # type: ignore[misc]


@pytest.mark.parametrize("value", [".inf", ".nan"])
def test_config_refuses_what_is_not_finite(value: str) -> None:
    with pytest.raises(ConfigError, match="finite number"):
        load_config(Run, overrides=[f"training.lr={value}"])


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("no", "no"),
        ("on", "on"),
        ("2023-01-01", "2023-01-01"),
        ("1:30", "1:30"),
        ("a=b", "a=b"),
        ("'7'", "7"),
    ],
)
def test_words_stay_words(written: str, meant: str) -> None:
    assert load_config(Run, overrides=[f"name={written}"]).name == meant


@pytest.mark.parametrize(
    ("written", "meant"), [("2e-4", 2e-4), ("1", 1.0), ("1_000", 1000.0), (".5", 0.5), ("1.", 1.0)]
)
def test_numbers_are_numbers(written: str, meant: float) -> None:
    assert load_config(Run, overrides=[f"training.lr={written}"]).training.lr == meant


def test_error_across_fields_names_file_line_and_override(sft: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(Run, sft, ["training.micro_batch_tokens=3000"])
    assert str(caught.value) == (
        "training.micro_batch_tokens=3000 must divide training.batch_tokens=4096 "
        "(remainder 1096).\n"
        f"  Set in {sft}:4. Set by --set training.micro_batch_tokens=3000."
    )


def test_error_of_one_value_names_where_it_was_set_and_overridden(sft: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(Run, sft, ["training.lr=-1"])
    assert str(caught.value) == (
        "training.lr=-1: Input should be greater than 0.\n"
        f"  Set in {sft}:3, overridden by --set training.lr=-1."
    )


def test_unknown_key_names_line_and_nearest_key(tmp_path: Path) -> None:
    path = tmp_path / "typo.yaml"
    path.write_text("training:\n\n  bach_tokens: 1\n")
    message = rf"training\.bach_tokens is not a known key\.\n  Set in {re.escape(str(path))}:3\. "
    with pytest.raises(ConfigError, match=message + r"Nearest: batch_tokens, micro_batch_tokens\."):
        load_config(Run, path)


def test_every_wrong_value_is_reported_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(Run, overrides=["nme=1", "training.lr=0"])
    assert "nme is not a known key" in str(caught.value)
    assert "training.lr=0" in str(caught.value)


def test_missing_value_says_how_to_set_it() -> None:
    class Needs(Config):
        """Has no default."""

        host: str

    with pytest.raises(ConfigError, match=r"host is missing: .* --set host=VALUE"):
        load_config(Needs)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a\n- b\n", r":1 must hold `key: value` lines"),
        ("name: [1\n", "is not valid YAML"),
        ("name: a\nname: b\n", "name is set twice in .* line 2"),
        ("name: &n a\nnote: *n\n", "note is an alias"),
        ("name: !!python/object/apply:os.getcwd []\n", "name=.*valid string"),
        ("name: !!python/name:os.getcwd ''\n", "name cannot be read"),
        ("a: &a [*a]\n", "is an alias"),
    ],
)
def test_bad_file_is_a_config_error(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_config(Run, path)


def test_file_that_is_not_text_is_a_config_error(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes(b"name: caf\xe9\n")
    with pytest.raises(ConfigError, match="UTF-8"):
        load_config(Run, tmp_path / "latin.yaml")


def test_absent_file_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no configuration file at"):
        load_config(Run, tmp_path / "absent.yaml")


@pytest.mark.parametrize("override", ["name", "=1", "training..lr=1", ".name=1"])
def test_malformed_override_says_the_form(override: str) -> None:
    with pytest.raises(ConfigError, match=r"write it as --set section\.key=value"):
        load_config(Run, overrides=[override])


def test_override_into_a_plain_value_is_an_error(sft: Path) -> None:
    with pytest.raises(ConfigError, match="name is sft, which has no keys"):
        load_config(Run, sft, ["name.first=1"])


@pytest.mark.parametrize("override", ["api_keys=topsecret", "api_keys=[[topsecret]]", "api_keys=["])
def test_secrets_never_show_in_errors(override: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(Run, overrides=[override])
    assert "topsecret" not in str(caught.value)
    assert "api_keys" in str(caught.value)


def test_saved_config_holds_defaults_and_masks_secrets(tmp_path: Path) -> None:
    run = load_config(Run, overrides=["api_keys=[topsecret]", "training.lr=2e-4"])
    save_config(run, tmp_path / "resolved.yaml")
    saved = yaml.safe_load((tmp_path / "resolved.yaml").read_text())
    assert saved["training"] == {"lr": 2e-4, "batch_tokens": 8192, "micro_batch_tokens": 4096}
    assert saved["api_keys"] == ["**********"]


def test_saved_config_loads_back_equal(tmp_path: Path) -> None:
    run = load_config(Run, overrides=["name=2023-01-01", "training.lr=3e-5"])
    save_config(run, tmp_path / "resolved.yaml")
    assert load_config(Run, tmp_path / "resolved.yaml") == run


def test_schema_carries_descriptions_and_forbids_extras() -> None:
    schema = Run.model_json_schema()
    assert schema["additionalProperties"] is False
    assert schema["$defs"]["Training"]["properties"]["lr"]["exclusiveMinimum"] == 0
