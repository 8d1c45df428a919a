"""What a result depends on: a hash of each module of ours that a system imports.

Imports are followed through the syntax tree, those inside functions too, and never run. What a
registry loads by its word is not an import: a system names it among its parts. Comments,
docstrings and empty lines do not count, so that prose can be mended without a new run.

Left out are the front door `yearling/__init__.py`, which holds the version and stands before
everything; imports for type checkers alone; and the native sources, which an installed package
does not carry, and whose meaning the parity tests hold.
"""

import ast
import io
import tokenize
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from hashlib import sha256
from pathlib import Path

__all__ = ["PACKAGE", "changed_modules", "fingerprint"]

PACKAGE = Path(__file__).parents[1]
_ROOT = "yearling"
_HEX_DIGITS = 16


def fingerprint(roots: Iterable[str], package: Path = PACKAGE) -> dict[str, str]:
    """Give a hash of every module that some modules import, themselves included.

    Args:
        roots: Modules without `yearling.`, such as `systems.entries.vllm`.
        package: Folder of the package.

    Raises:
        ValueError: a root has no source file.
    """
    waiting = list(roots)
    missing = [name for name in waiting if _file_of(name, package) is None]
    if missing:
        raise ValueError(f"no module {', '.join(missing)} in {package}.")
    found: dict[str, str] = {}
    while waiting:
        name = waiting.pop()
        file = _file_of(name, package)
        if not name or name in found or file is None:
            continue
        found[name], imported = _read(file.read_text("utf-8"))
        waiting += imported
        waiting.append(name.rpartition(".")[0])  # a package's __init__ runs before its modules
    return dict(sorted(found.items()))


def changed_modules(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Name the modules that differ between two fingerprints, or are in one of them only."""
    return sorted(name for name in {*before, *now} if before.get(name) != now.get(name))


def _file_of(name: str, package: Path) -> Path | None:
    stem = package.joinpath(*name.split("."))
    for file in (stem / "__init__.py", stem.with_name(f"{stem.name}.py")):
        if file.is_file():
            return file
    return None


@lru_cache(maxsize=2048)
def _read(text: str) -> tuple[str, tuple[str, ...]]:
    """Hash of a source text, and the modules of ours that it may import."""
    tree = ast.parse(text)
    digest = sha256("\n".join(_code_lines(text, tree)).encode()).hexdigest()[:_HEX_DIGITS]
    return digest, tuple(dict.fromkeys(_imports(tree)))


def _imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            # A name imported from a package may be a module of it.
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        yield from (name[len(_ROOT) + 1 :] for name in names if name.startswith(f"{_ROOT}."))
        yield from _imports(node)


def _code_lines(text: str, tree: ast.AST) -> Iterator[str]:
    """The lines of a source without comments, docstrings and empty lines."""
    lines = text.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    for start, end in _docstring_rows(tree):
        lines[start - 1 : end] = [""] * (end - start + 1)
    yield from (line.rstrip() for line in lines if line.strip())


def _docstring_rows(tree: ast.AST) -> Iterator[tuple[int, int]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            value = first.value if isinstance(first, ast.Expr) else None
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                yield value.lineno, value.end_lineno or value.lineno
