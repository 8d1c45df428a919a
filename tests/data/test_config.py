from pathlib import Path

import pytest

from yearling.core.config import load_config, save_config
from yearling.core.errors import ConfigError
from yearling.data.config import DataConfig

YAML = """
paths: a.jsonl
filters:
  - exact_duplicates
  - name: length
    min_words: 3
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "data.yaml"
    path.write_text(YAML)
    return path


def test_filters_keep_the_order_of_the_file_and_their_options(file: Path) -> None:
    config = load_config(DataConfig, file)
    assert config.paths == ("a.jsonl",)
    assert [step.name for step in config.filters] == ["exact_duplicates", "length"]
    save_config(config, file)
    assert load_config(DataConfig, file) == config


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("min_words: 0", r"filters\.1\.min_words=0: .*\n.*data\.yaml:6"),
        ("min_word: 3", r"filters\.1\.min_word is not a known key\.\n.*data\.yaml:6"),
        ("min_words: 3\n    max_words: 2", "min_words=3 is above max_words=2"),
    ],
)
def test_wrong_option_of_a_filter_is_named_with_its_line(file: Path, line: str, said: str) -> None:
    file.write_text(YAML.replace("min_words: 3", line))
    with pytest.raises(ConfigError, match=said):
        load_config(DataConfig, file)


def test_unknown_filter_is_named_with_the_nearest(file: Path) -> None:
    file.write_text(YAML.replace("length", "lenght"))
    with pytest.raises(ConfigError, match=r"no filter is named 'lenght'. Nearest: length"):
        load_config(DataConfig, file)


def test_validation_comes_from_one_place(file: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"validation_fraction=0\.1 and validation_paths are both"
    ):
        load_config(DataConfig, file, ["validation_fraction=0.1", "validation_paths=b.jsonl"])
