"""Reading adapters: what is found, and what is refused with what to do about it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.models.adapter_folders import PREFIX, write_adapter
from tests.models.tiny_files import tiny_gguf
from yearling.core.errors import ModelError
from yearling.models.adapter import read_adapter
from yearling.models.checkpoint import open_checkpoint
from yearling.models.spec import ModelSpec

_QUERY = "model.layers.0.self_attn.q_proj"
_ONE = {_QUERY: (32, 32)}


@pytest.fixture
def spec(tmp_path: Path) -> ModelSpec:
    path = tmp_path / "tiny.gguf"
    path.write_bytes(tiny_gguf())
    return open_checkpoint(path).spec


def test_factor_is_in_the_second_matrix(spec: ModelSpec, tmp_path: Path) -> None:
    plain = read_adapter(write_adapter(tmp_path / "a", _ONE), spec).updates[0, "query"]
    stable = read_adapter(
        write_adapter(tmp_path / "b", _ONE, settings={"use_rslora": True}), spec
    ).updates[0, "query"]
    assert plain.first.shape == (4, 32)
    assert plain.second.shape == (32, 4)
    np.testing.assert_allclose(stable.second, 2 * plain.second)  # 8/√4 against 8/4


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"settings": {"peft_type": "IA3"}}, "peft_type='IA3' is no low-rank adapter"),
        ({"settings": {"use_dora": True}}, "use_dora=True is not computed .* yearling merge"),
        ({"settings": {"rank_pattern": {"q_proj": 8}}}, "rank_pattern=.* yearling merge"),
        ({"settings": {"r": 0}}, "r and lora_alpha"),
        ({"settings": {"r": -1}}, "make no factor"),
        ({"settings": {"lora_alpha": 1e999}}, "make no factor"),
        ({"settings": {"r": 1e999}}, "r and lora_alpha"),
        ({"settings": {"lora_alpha": 10**400}}, "r and lora_alpha"),
        ({"settings": {"init_lora_weights": "pissa"}}, "'pissa' changes the base's weights"),
        ({"rank": 0, "settings": {"r": 4}}, "lora_A and lora_B of .* do not fit"),
        ({"settings": {"lora_alpha": "much"}}, "r and lora_alpha"),
        ({"modules": {"model.layers.7.self_attn.q_proj": (32, 32)}}, f"names such as {_QUERY}"),
        ({"modules": {"lm_head": (4, 32)}}, "which end in down_proj, gate_proj, k_proj, o_proj"),
        ({"modules": {_QUERY: (48, 32)}}, r"its update of .* is \(48, 32\), .* here \(32, 32\)"),
        ({"modules": {}}, "holds no update"),
        (
            {"tensors": {PREFIX + "model.norm.weight": np.ones(32, np.float32)}},
            "holds base_model.model.model.norm.weight, which is no update .* yearling merge",
        ),
        (
            {"tensors": {f"{PREFIX}{_QUERY}.lora_A.weight": np.ones((3, 32), np.float32)}},
            "lora_A and lora_B of .* do not fit",
        ),
    ],
)
def test_other_adapters_are_refused(
    spec: ModelSpec, tmp_path: Path, options: dict[str, Any], complaint: str
) -> None:
    folder = write_adapter(tmp_path / "a", options.pop("modules", _ONE), **options)
    with pytest.raises(ModelError, match=complaint):
        read_adapter(folder, spec)


def test_version_follows_weights_and_factor(spec: ModelSpec, tmp_path: Path) -> None:
    folders = [
        write_adapter(tmp_path / str(n), _ONE, seed=seed, settings={"lora_alpha": alpha})
        for n, (seed, alpha) in enumerate([(0, 8), (0, 16), (1, 8), (0, 8)])
    ]
    first, other_factor, other_weights, same = (read_adapter(f, spec).version for f in folders)
    assert first == same
    assert len({first, other_factor, other_weights}) == 3


@pytest.mark.parametrize("path", ["x" * 300, "a\0b"])
def test_name_that_no_folder_can_have_is_not_found(spec: ModelSpec, path: str) -> None:
    with pytest.raises(ModelError, match=r"holds no adapter_config\.json"):
        read_adapter(Path(path), spec)


def test_adapter_of_other_positions_is_to_be_merged(spec: ModelSpec, tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "a", _ONE)
    (folder / "yearling_context.json").write_text("{}")
    with pytest.raises(ModelError, match=r"other positions than its base has\. Merge it"):
        read_adapter(folder, spec)


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_missing_file_is_named(spec: ModelSpec, tmp_path: Path, name: str) -> None:
    folder = write_adapter(tmp_path / "a", _ONE)
    (folder / name).unlink()
    with pytest.raises(ModelError, match=f"holds no {name}"):
        read_adapter(folder, spec)
