"""Published sizes: each has the parameters that its source prints."""

from decimal import Decimal
from pathlib import Path

import pytest

from yearling.core.errors import ModelNotFoundError
from yearling.models.checkpoint import open_checkpoint
from yearling.models.plan import count_parameters
from yearling.models.presets import find_preset, nearest_presets, preset_names
from yearling.models.weights import weights_of

each_preset = pytest.mark.parametrize("name", preset_names())


def unit_of(printed: str) -> Decimal:
    """What the last printed digit is worth: `8.63e9` is known to ten million."""
    exponent = Decimal(printed).as_tuple().exponent
    assert isinstance(exponent, int)
    return Decimal(1).scaleb(exponent)


@each_preset
def test_preset_has_the_published_number_of_parameters(name: str) -> None:
    preset = find_preset(name)
    counted = count_parameters(preset.spec).total + preset.unread_parameters
    if preset.parameters is not None:
        assert counted == preset.parameters
    else:  # tables round or cut, so the last digit may be one off
        assert abs(counted - Decimal(preset.rounded)) <= unit_of(preset.rounded)


@each_preset
def test_preset_says_where_it_comes_from_and_one_count(name: str) -> None:
    preset = find_preset(name)
    assert preset.name == name == name.lower()
    assert preset.source
    assert preset.config["model_type"]
    assert (preset.parameters is None) == bool(preset.rounded)


def test_wrong_width_would_not_have_the_published_count() -> None:
    from yearling.models.families import family_of_model_type
    from yearling.models.fields import Fields

    preset = find_preset("llama-2-7b")
    config = Fields({**preset.config, "intermediate_size": 11_009}, "changed")
    spec = family_of_model_type("llama").spec_from_config(config)
    assert count_parameters(spec).total != preset.parameters


def test_preset_calls_for_the_weights_of_the_real_file(smollm2_path: Path) -> None:
    real = open_checkpoint(smollm2_path).spec
    preset = find_preset("smollm2-135m").spec
    assert list(weights_of(preset)) == list(weights_of(real))
    assert preset.context == real.context


def test_preset_is_found_whatever_the_case() -> None:
    assert find_preset("Llama-2-70B") is find_preset("llama-2-70b")


def test_unknown_preset_names_the_nearest() -> None:
    with pytest.raises(ModelNotFoundError, match=r"'qwen-73b': did you mean .*qwen-72b"):
        find_preset("qwen-73b")
    with pytest.raises(ModelNotFoundError, match="are known, such as llama-2-70b"):
        find_preset("???")
    assert nearest_presets("???") == ()


def test_page_lists_every_preset() -> None:
    page = (Path(__file__).parents[2] / "docs" / "models.md").read_text("utf-8")
    section = page.partition("## Published sizes")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ")][1:]
    listed = [name for row in rows for name in row.split("|")[2].split("`")[1::2]]
    assert sorted(listed) == list(preset_names())
