"""What every registered family promises."""

from collections import Counter

import pytest

from yearling.core.errors import ModelFormatError
from yearling.models.families import families, family_of_architecture, family_of_model_type


@pytest.mark.parametrize("name", families.names())
def test_family_is_found_by_each_of_its_types(name: str) -> None:
    family = families.get(name)
    assert family.model_types
    assert all(type(family_of_model_type(kind)) is family for kind in family.model_types)
    found = [type(family_of_architecture(kind)) for kind in family.gguf_architectures]
    assert found == [family] * len(found)


@pytest.mark.parametrize("name", families.names())
def test_family_names_every_weight_once_in_each_format(name: str) -> None:
    weights = families.get(name).weights
    assert {"embedding", "head"} <= set(weights)
    for names in ([w.hugging_face for w in weights.values()], [w.gguf for w in weights.values()]):
        assert max(Counter(names).values()) == 1
        assert not any(name.endswith((".weight", ".bias")) for name in names)


def test_no_type_belongs_to_two_families() -> None:
    per_family = [{*family.model_types, *family.gguf_architectures} for _, family in families]
    assert len(set().union(*per_family)) == sum(map(len, per_family))


def test_unknown_type_names_the_known_ones() -> None:
    with pytest.raises(ModelFormatError, match=r"model_type='gpt9' .* known are .*llama"):
        family_of_model_type("gpt9")
