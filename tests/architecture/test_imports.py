"""Layers hold, and every module imports with nothing but the minimal install."""

import re
import subprocess
import sys
import tomllib
from importlib.metadata import distribution, packages_distributions

from packaging.requirements import Requirement

from tests.architecture.source import REPOSITORY, modules

_IMPORT_ALL = """
import sys
from importlib import import_module

forbidden = set(sys.argv[1].split(","))

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in forbidden:
            raise ModuleNotFoundError(f"{name} is not part of the minimal install", name=name)

sys.meta_path.insert(0, Refuse())
for name in sys.argv[2].split(","):
    import_module(name)
print(",".join(sorted({name.partition(".")[0] for name in sys.modules})))
"""

# What runs or trains models in PyTorch is of the `train` extra; everything else does without.
_OF_TRAIN = (
    "yearling.models.torch_decoder",
    "yearling.serving.executors.paged_cache",
    "yearling.serving.executors.torch",
    "yearling.serving.executors.transformers",
    "yearling.training",
)


def minimal_distributions() -> set[str]:
    """Names of what `pip install yearling` installs beside ourselves."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    waiting = [Requirement(line) for line in project["dependencies"]]
    found: set[str] = set()
    while waiting:
        requirement = waiting.pop()
        name = plain_name(requirement.name)
        if name in found or not applies(requirement):
            continue
        found.add(name)
        waiting += [Requirement(line) for line in distribution(name).requires or ()]
    return found


def applies(requirement: Requirement) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": ""})


def plain_name(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def import_all(forbidden: set[str]) -> subprocess.CompletedProcess[str]:
    skipped = (*_OF_TRAIN, "yearling.__main__")
    names = ",".join(m.name for m in modules() if not m.name.startswith(skipped))
    return subprocess.run(
        [sys.executable, "-c", _IMPORT_ALL, ",".join(sorted(forbidden)), names],
        capture_output=True,
        text=True,
        cwd=REPOSITORY / "src",
        timeout=60,
    )


def test_layers_hold_over_every_module() -> None:
    program = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports())"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, timeout=90
    )
    assert done.returncode == 0, done.stdout[-3000:]


def test_every_module_imports_under_the_minimal_install() -> None:
    minimal = minimal_distributions() | {"yearling"}
    outside = {
        package
        for package, owners in packages_distributions().items()
        if not minimal & {plain_name(owner) for owner in owners}
    }
    assert {"torch", "transformers", "pytest"} <= outside
    result = import_all(outside)
    assert result.returncode == 0, result.stderr
    loaded = set(result.stdout.strip().split(","))
    assert "yearling" in loaded
    assert not loaded & {"torch", "onnxruntime", "transformers"}


def test_modules_of_the_train_extra_ask_for_torch() -> None:
    for prefix in _OF_TRAIN:
        names = ",".join(m.name for m in modules() if m.name.startswith(prefix))
        program = _IMPORT_ALL.replace("print(", "assert 'torch' in sys.modules; print(")
        done = subprocess.run(
            [sys.executable, "-c", program, "nothing", names],
            cwd=REPOSITORY / "src",
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr


def test_the_check_for_the_minimal_install_can_fail() -> None:
    result = import_all({"pydantic"})
    assert result.returncode != 0
    assert "pydantic is not part of the minimal install" in result.stderr
