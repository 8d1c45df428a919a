"""A family enters from another package, through the door that CONTRIBUTING.md shows."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.models.tiny_files import CONFIG, write_folder

_FAMILY = '''
"""Owl: LLaMA's layout, with tied heads and a base of its own."""

from dataclasses import replace

from yearling.models.families import Family, families
from yearling.models.llama_like import (
    LLAMA_KEYS,
    change_attention,
    llama_like_names,
    llama_like_spec,
)
from yearling.models.spec import Head, Rotary


def spec_from_config(config):
    """Read config.json."""
    config.refuse_unknown(LLAMA_KEYS | {"owl_base"})
    base = config.number("owl_base", above=0)
    spec = replace(llama_like_spec(config, "owl"), head=Head(is_tied=True))
    return change_attention(
        spec, lambda _, mixer: replace(mixer, positions=Rotary(8, base)), config.label
    )


family = families.register(
    Family(model_types=("owl",), spec_from_config=spec_from_config, names=llama_like_names),
    __name__,
)
'''
_ASK = """
import sys
from pathlib import Path
from yearling.models.checkpoint import open_checkpoint
from yearling.models.families import families
checkpoint = open_checkpoint(Path(sys.argv[1]))
print(checkpoint.spec.family, checkpoint.spec.layers[0].mixer.positions.base)
print("owl" in families.names(), families.get("owl") is checkpoint.family)
"""


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """What `pip install owl-models` leaves behind."""
    (tmp_path / "owl_models").mkdir()
    (tmp_path / "owl_models" / "__init__.py").touch()
    (tmp_path / "owl_models" / "owl.py").write_text(_FAMILY)
    about = tmp_path / "owl_models-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: owl-models\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[yearling.families]\nowl = owl_models.owl:family\n")
    return tmp_path


def _ask(model: Path, package: Path | None) -> subprocess.CompletedProcess[str]:
    paths = [path for path in (str(package or ""), os.environ.get("PYTHONPATH", "")) if path]
    return subprocess.run(
        [sys.executable, "-c", _ASK, str(model)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_family_of_another_package_reads_its_models(package: Path) -> None:
    config = json.dumps({**CONFIG, "model_type": "owl", "owl_base": 500.0}).encode()
    model = write_folder(package / "model", {"config.json": config})
    answer = _ask(model, package)
    assert answer.stdout.split() == ["owl", "500.0", "True", "True"], answer.stderr
    without = _ask(model, None)
    assert "model_type='owl' belongs to no known family" in without.stderr
