"""A wheel made here installs and answers where no compiler can be found."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.architecture.source import REPOSITORY

pytestmark = [pytest.mark.slow, pytest.mark.network, pytest.mark.timeout(900)]

_ASK = """
from yearling import LLM, SamplingParams
messages = [{"role": "user", "content": "What is 2 + 2?"}]
print(LLM("smollm2").chat(messages, SamplingParams(max_tokens=24, temperature=0)).text)
"""


def run(*command: str | Path, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        [str(word) for word in command], cwd=REPOSITORY, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel() -> Path:
    for old in (REPOSITORY / "dist").glob("yearling-*.whl"):
        old.unlink()
    run("make", "wheel")
    (made,) = (REPOSITORY / "dist").glob("yearling-*.whl")
    return made


def test_wheel_holds_what_serving_needs(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert sum(name.startswith("yearling/kernels/_native") for name in names) == 2  # and its stub
    assert "yearling/py.typed" in names
    assert "yearling/server/static/index.html" in names
    assert "yearling/models/published/llama.toml" in names
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/"))]


def test_wheel_installs_and_answers_without_a_compiler(
    wheel: Path, smollm2_path: Path, tmp_path: Path
) -> None:
    venv = tmp_path / "venv"
    run(sys.executable, "-m", "venv", venv)
    bare = {
        name: value
        for name, value in os.environ.items()
        if name not in ("CC", "CXX", "PYTHONPATH", "VIRTUAL_ENV")
    } | {"PATH": str(venv / "bin"), "PIP_CONSTRAINT": str(REPOSITORY / "constraints.txt")}
    assert not [tool for tool in ("cc", "g++", "cmake") if shutil.which(tool, path=bare["PATH"])]
    run(venv / "bin/python", "-m", "pip", "install", "--quiet", "--no-compile", wheel, env=bare)
    installed = run(venv / "bin/python", "-m", "pip", "list", "--format=freeze", env=bare).lower()
    assert not [name for name in ("torch=", "onnxruntime=") if name in installed]
    size_bytes = sum(file.lstat().st_size for file in venv.rglob("*") if file.is_file())
    assert size_bytes < 250e6
    assert "4" in run(venv / "bin/python", "-c", _ASK, env=bare)
