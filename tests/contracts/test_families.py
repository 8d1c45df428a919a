"""What every registered family promises."""

import json
from collections import Counter

import pytest

from tests.parity.gguf_files import GGUF_CASES
from yearling.core.errors import ModelFormatError
from yearling.models.families import families, family_of_architecture, family_of_model_type
from yearling.models.fields import Fields
from yearling.models.presets import find_preset, preset_names


def _family(preset: str) -> str:
    return find_preset(preset).spec.family


@pytest.mark.parametrize("name", families.names())
def test_family_is_found_by_each_of_its_types(name: str) -> None:
    family = families.get(name)
    assert family.model_types or family.gguf_architectures
    assert all(family_of_model_type(kind) is family for kind in family.model_types)
    assert all(family_of_architecture(kind) is family for kind in family.gguf_architectures)


@pytest.mark.parametrize("name", families.names())
def test_architectures_come_with_their_reader(name: str) -> None:
    family = families.get(name)
    assert bool(family.gguf_architectures) == (family.spec_from_gguf is not None)


@pytest.mark.parametrize("name", families.names())
def test_family_refuses_settings_it_would_not_read(name: str) -> None:
    config = Fields({"made_up_multiplier": 2.0}, "config.json")
    with pytest.raises(ModelFormatError, match=r"made_up_multiplier=2.0 is not known"):
        families.get(name).spec_from_config(config)


_WRITERS = [name for name, family in families if family.config_from_spec is not None]
_OWN_CODE = {"baichuan", "chatglm", "internlm2", "qwen"}  # whose class comes with their files


@pytest.mark.parametrize("preset", [name for name in preset_names() if _family(name) in _WRITERS])
def test_written_configuration_reads_back_as_the_same_spec(preset: str) -> None:
    spec = find_preset(preset).spec
    family = families.get(spec.family)
    assert family.config_from_spec is not None
    config = json.loads(json.dumps(family.config_from_spec(spec)))
    assert family.spec_from_config(Fields(config, "config.json")) == spec


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", sorted(set(_WRITERS) - _OWN_CODE))
def test_written_configuration_means_the_same_to_transformers(name: str) -> None:
    from transformers import AutoConfig

    family = families.get(name)
    case = next(case for case in GGUF_CASES.values() if case.family == name)
    spec = family.spec_from_config(Fields(case.config, name))
    assert family.config_from_spec is not None
    theirs = AutoConfig.for_model(**family.config_from_spec(spec)).to_dict()
    assert family.spec_from_config(Fields(theirs, "config.json")) == spec


@pytest.mark.parametrize("key", ["model_types", "gguf_architectures"])
def test_no_type_belongs_to_two_families(key: str) -> None:
    owners = Counter(kind for _, family in families for kind in getattr(family, key))
    assert [kind for kind, count in owners.items() if count > 1] == []


def test_unknown_type_names_the_known_ones() -> None:
    with pytest.raises(ModelFormatError, match=r"model_type='gpt9' .* known are .*llama"):
        family_of_model_type("gpt9")
