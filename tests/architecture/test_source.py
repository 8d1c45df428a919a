"""Rules of the house that a syntax tree can show."""

import ast
from collections.abc import Iterator

import pytest

from tests.architecture.source import Module, all_names, dotted, modules

each_module = pytest.mark.parametrize("module", modules(), ids=lambda module: module.name)

_UNSAFE_MODULES = {"pickle", "cPickle", "dill", "joblib", "marshal", "shelve"}
_UNSAFE_CALLS = {"eval", "exec", "torch.load", "yaml.unsafe_load", "os.system"}
_UNWRITTEN = ("AssertionError", "NotImplementedError")
_VAGUE_NAMES = {"common", "helpers", "misc", "utils", "util", "helper"}
_DOCSTRING_ONLY = "a package whose __init__ only says what it is for needs no __all__"


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    yield from (
        node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )


def promises_only(module: Module) -> set[ast.AST]:
    """Functions without a body on purpose: of protocols, overloads, options of a program."""
    found: set[ast.AST] = set()
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ClassDef):
            bases = {dotted(base).rpartition(".")[2] for base in node.bases}
            subscripted = {dotted(b.value) for b in node.bases if isinstance(b, ast.Subscript)}
            if "Protocol" in bases | subscripted:
                found.update(functions(node))
    for function in functions(module.tree):
        decorators = {
            dotted(item.func if isinstance(item, ast.Call) else item).rpartition(".")[2]
            for item in function.decorator_list
        }
        if decorators & {"overload", "abstractmethod", "callback"}:
            found.add(function)
    return found


def registers_itself(node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Whether a decorator such as `@app.command()` hands it to what is public."""
    return any(
        isinstance(item, ast.Call) and dotted(item.func).endswith((".command", ".callback"))
        for item in node.decorator_list
    )


@each_module
def test_module_says_what_it_is_for(module: Module) -> None:
    assert ast.get_docstring(module.tree), f"{module.name} has no docstring"


@each_module
def test_all_is_there_sorted_and_names_what_is_public(module: Module) -> None:
    public = [
        node.name
        for node in module.tree.body
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and not node.name.startswith("_")
        and not registers_itself(node)
    ]
    names = all_names(module)
    if names is None:
        assert len(module.tree.body) == 1, _DOCSTRING_ONLY
        return
    assert len(names) == len(set(names))
    assert set(public) <= set(names), "public classes and functions missing from __all__"


def test_names_imported_across_modules_are_public() -> None:
    exported = {module.name: all_names(module) or [] for module in modules()}
    wrong = [
        f"{module.where(node)}: {alias.name} of {node.module}"
        for module in modules()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.ImportFrom) and node.module in exported
        for alias in node.names
        if alias.name not in (*exported[node.module], "_native")
        and f"{node.module}.{alias.name}" not in exported
    ]
    assert wrong == []


@each_module
def test_nothing_is_left_to_write(module: Module) -> None:
    allowed = promises_only(module)
    stubs = []
    for function in functions(module.tree):
        body = function.body[1:] if ast.get_docstring(function) else function.body
        if function not in allowed and all(_does_nothing(statement) for statement in body):
            stubs.append(f"{module.where(function)}: {function.name} has no body")
    words = [
        f"{module.path.name}:{number}: {line.strip()}"
        for number, line in enumerate(module.path.read_text("utf-8").splitlines(), start=1)
        if any(word in line for word in ("TODO", "FIXME", "XXX"))
    ]
    assert stubs + words == []


def _does_nothing(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.Raise):
        raised = statement.exc.func if isinstance(statement.exc, ast.Call) else statement.exc
        return raised is not None and dotted(raised) in _UNWRITTEN
    return isinstance(statement, ast.Pass) or (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and statement.value.value is ...
    )


@each_module
def test_file_names_say_what_is_inside(module: Module) -> None:
    assert not _VAGUE_NAMES & set(module.name.split("."))


@each_module
def test_nothing_is_unpickled_or_evaluated(module: Module) -> None:
    wrong = [module.where(node) for node in ast.walk(module.tree) if _is_unsafe(node)]
    assert wrong == []


def _is_unsafe(node: ast.AST) -> bool:
    if isinstance(node, ast.Import):
        return any(alias.name.split(".")[0] in _UNSAFE_MODULES for alias in node.names)
    if isinstance(node, ast.ImportFrom):
        return (node.module or "").split(".")[0] in _UNSAFE_MODULES
    if isinstance(node, ast.Call):
        return dotted(node.func) in _UNSAFE_CALLS or any(
            keyword.arg in ("allow_pickle", "shell") and not _is_false(keyword.value)
            for keyword in node.keywords
        )
    return False


def _is_false(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is False


def test_templates_are_compiled_in_one_place() -> None:
    users = sorted(
        module.name
        for module in modules()
        if any(name.split(".")[0] == "jinja2" for name in imported_names(module))
    )
    assert len(users) <= 1, f"one factory keeps the sandbox; jinja2 is imported by {users}"


def test_environment_variables_are_read_in_one_place() -> None:
    readers = {
        module.name
        for module in modules()
        for node in ast.walk(module.tree)
        if dotted(node) in ("os.environ", "os.getenv", "os.environb", "environ", "getenv")
    }
    assert readers == {"yearling.core.environment"}


def imported_names(module: Module) -> Iterator[str]:
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


@pytest.mark.parametrize(
    "source",
    [
        "def later(): ...",
        "def later():\n    '''Says something.'''\n    pass",
        "class A:\n    def later(self): raise AssertionError",
        "def later(): raise NotImplementedError('soon')",
    ],
)
def test_the_check_for_stubs_can_fail(source: str) -> None:
    module = Module(modules()[0].path, ast.parse(source))
    (function,) = functions(module.tree)
    body = function.body[1:] if ast.get_docstring(function) else function.body
    assert function not in promises_only(module)
    assert all(_does_nothing(statement) for statement in body)


@pytest.mark.parametrize(
    "source",
    ["import pickle", "from marshal import loads", "eval('1')", "np.load(f, allow_pickle=True)"],
)
def test_the_check_for_unsafe_calls_can_fail(source: str) -> None:
    assert any(_is_unsafe(node) for node in ast.walk(ast.parse(source)))
