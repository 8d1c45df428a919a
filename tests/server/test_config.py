import pytest

from yearling.core.errors import ConfigError
from yearling.server.config import ServeSettings


def test_names_follow_the_models_in_order():
    settings = ServeSettings(models=("smollm2", "b/tiny.gguf", "hf:ORG/NAME"))
    assert settings.names == ("smollm2", "tiny", "hf:ORG/NAME")


def test_one_model_may_be_served_under_two_names():
    settings = ServeSettings(models=("smollm2", "smollm2"), served_names=("a", "b"))
    assert settings.names == ("a", "b")


def test_names_must_be_distinct_and_one_per_model():
    with pytest.raises(ConfigError, match="called the same: smollm2, smollm2"):
        ServeSettings(models=("smollm2", "smollm2"))
    with pytest.raises(ConfigError, match="2 models, but 1 served names"):
        ServeSettings(models=("smollm2", "b"), served_names=("a",))
