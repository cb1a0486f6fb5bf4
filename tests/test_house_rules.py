"""The rules of the house that no ready-made tool checks: sizes, mirrored tests, safe loading."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "rt1"
TESTS = ROOT / "tests"

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
MAX_PARAMETERS = 7

# Tests of the whole rather than of one module.
TESTS_WITHOUT_A_MODULE = {
    "fixtures",  # folders
    "fuzz",
    "reference",
    "test_docs.py",
    "test_house_rules.py",
    "test_public_surface.py",
    "test_examples.py",
    "test_launch.py",
    "test_packages.py",
    "test_project.py",
    "test_scripts.py",
    "test_shipped.py",
    "test_variants.py",
    "test_testing.py",  # a folder, entered by one door
}
SIMULATORS = re.compile(r"meta-?_?world|mujoco", re.IGNORECASE)

MODULES_THAT_RUN_CODE = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}

# Written so that the pattern does not match its own line.
MACHINE_PATH = re.compile(r"(?<![\w.~])/(?:work|root|home|Users|tmp)/\w")

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef


def _python_files(folder: Path) -> list[Path]:
    files = sorted(folder.rglob("*.py"))
    assert files, f"no Python files under {folder}"
    return files


@cache
def _nodes(path: Path) -> tuple[ast.AST, ...]:
    return tuple(ast.walk(ast.parse(path.read_text(encoding="utf-8"), filename=str(path))))


def _functions(path: Path) -> Iterator[FunctionNode]:
    return (node for node in _nodes(path) if isinstance(node, FunctionNode))


def _calls(path: Path) -> Iterator[ast.Call]:
    return (node for node in _nodes(path) if isinstance(node, ast.Call))


def _dotted(node: ast.expr) -> str:
    """Return ``a.b.c`` as written; a base that is no plain name (a call, an index) is left empty."""
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def _says_true(call: ast.Call, name: str) -> bool:
    return any(
        keyword.arg == name and isinstance(keyword.value, ast.Constant) and keyword.value.value is True
        for keyword in call.keywords
    )


def _where(path: Path, node: ast.stmt | ast.expr) -> str:
    return f"{path.relative_to(ROOT)}:{node.lineno}"


def _parameters(function: FunctionNode) -> int:
    arguments = function.args
    named = [*arguments.posonlyargs, *arguments.args]
    if named and named[0].arg in ("self", "cls"):
        named = named[1:]
    starred = [argument for argument in (arguments.vararg, arguments.kwarg) if argument]
    return len([*named, *arguments.kwonlyargs, *starred])


def test_no_source_file_is_longer_than_the_limit() -> None:
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in _python_files(SOURCE)}
    too_long = [f"{path.relative_to(ROOT)}: {lines} lines" for path, lines in lengths.items() if lines > MAX_FILE_LINES]
    assert not too_long, "\n".join(too_long)


def test_no_function_is_longer_than_the_limit() -> None:
    too_long = [
        f"{_where(path, function)} {function.name}: {lines} lines"
        for path in _python_files(SOURCE)
        for function in _functions(path)
        if (lines := (function.end_lineno or function.lineno) - function.lineno + 1) > MAX_FUNCTION_LINES
    ]
    assert not too_long, "\n".join(too_long)


def test_no_function_takes_more_parameters_than_the_limit() -> None:
    too_many = [
        f"{_where(path, function)} {function.name}: {_parameters(function)} parameters"
        for path in _python_files(SOURCE)
        for function in _functions(path)
        if _parameters(function) > MAX_PARAMETERS
    ]
    assert not too_many, "\n".join(too_many)


def test_no_simulator_is_named_outside_envs() -> None:
    paths = [path for path in _python_files(SOURCE) if path.relative_to(SOURCE).parts[0] != "envs"]
    named = [str(path.relative_to(ROOT)) for path in paths if SIMULATORS.search(path.read_text(encoding="utf-8"))]
    assert not named, f"take a task suite from rt1.envs.registry instead: {named}"


def test_every_source_folder_is_a_package() -> None:
    folders = {path.parent for path in _python_files(SOURCE)}
    bare = [str(folder.relative_to(ROOT)) for folder in sorted(folders) if not (folder / "__init__.py").is_file()]
    assert not bare, f"without __init__.py the import checks silently leave out {bare}"


def test_every_test_file_mirrors_a_module() -> None:
    strays = []
    for path in _python_files(TESTS):
        place = path.relative_to(TESTS)
        module = SOURCE / place.with_name(place.name.removeprefix("test_"))
        mirrors = place.name.startswith("test_") and module.is_file()
        if not (mirrors or place.name == "conftest.py" or place.parts[0] in TESTS_WITHOUT_A_MODULE):
            strays.append(str(place))
    assert not strays, "\n".join(strays)


def _asserts(function: FunctionNode) -> bool:
    for node in ast.walk(function):
        if isinstance(node, ast.Assert):
            return True
        if isinstance(node, ast.Call):
            name = _dotted(node.func)
            helper = name.split(".")[-1].lstrip("_")
            if name in ("pytest.raises", "pytest.warns") or helper.startswith(("check_", "assert_")):
                return True
    return False


def test_every_test_asserts_something() -> None:
    empty = [
        f"{_where(path, function)} {function.name}"
        for path in _python_files(TESTS)
        for function in _functions(path)
        if function.name.startswith("test_") and not _asserts(function)
    ]
    assert not empty, "\n".join(empty)


def _skips_without_reason(path: Path) -> Iterator[str]:
    names = ("pytest.skip", "pytest.mark.skip", "pytest.mark.skipif", "pytest.mark.xfail")
    called = {id(call.func) for call in _calls(path)}
    for node in _nodes(path):
        if isinstance(node, ast.Attribute) and _dotted(node) in names and id(node) not in called:
            yield f"{_where(path, node)} {_dotted(node)}"
        if isinstance(node, ast.Call) and _dotted(node.func) in names:
            named = any(keyword.arg == "reason" for keyword in node.keywords)
            if not (named or (_dotted(node.func) in names[:2] and node.args)):
                yield f"{_where(path, node)} {_dotted(node.func)}"


def test_no_test_is_skipped_without_a_reason() -> None:
    silent = [where for path in _python_files(TESTS) for where in _skips_without_reason(path)]
    assert not silent, "\n".join(silent)


def _can_run_code(call: ast.Call) -> bool:
    name = _dotted(call.func)
    return (
        name in ("eval", "exec")
        or (name == "torch.load" and not _says_true(call, "weights_only"))
        or _says_true(call, "allow_pickle")
        or _says_true(call, "trust_remote_code")
    )


def _imported(node: ast.AST) -> set[str]:
    if isinstance(node, ast.Import):
        return {alias.name.split(".")[0] for alias in node.names}
    if isinstance(node, ast.ImportFrom) and node.module:
        return {node.module.split(".")[0]}
    return set()


def test_nothing_loaded_can_run_code() -> None:
    unsafe = [_where(path, call) for path in _python_files(SOURCE) for call in _calls(path) if _can_run_code(call)]
    unsafe += [
        f"{path.relative_to(ROOT)} imports {sorted(names)}"
        for path in _python_files(SOURCE)
        for node in _nodes(path)
        if (names := _imported(node) & MODULES_THAT_RUN_CODE)
    ]
    assert not unsafe, "\n".join(unsafe)


def _reads_as_the_locale_says(call: ast.Call) -> bool:
    """Whether a call opens a text file, or the output of a process, without naming an encoding."""
    keywords = {keyword.arg for keyword in call.keywords}
    package, _, name = _dotted(call.func).rpartition(".")
    mode = next((a.value for a in call.args if isinstance(a, ast.Constant) and isinstance(a.value, str)), "r")
    is_text = mode in ("a", "w", "x", "r+") or (mode == "r" and isinstance(call.func, ast.Name))
    opens = name == "open" and package != "av" and is_text
    text = isinstance(call.func, ast.Attribute) and (
        (name == "read_text" and not call.args) or (name == "write_text" and len(call.args) == 1)
    )
    return (opens or text or _says_true(call, "text")) and "encoding" not in keywords


def test_no_text_is_read_or_written_in_the_encoding_of_the_locale() -> None:
    folders = [folder for name in ("src", "benchmarks", "examples") if (folder := ROOT / name).is_dir()]
    unnamed = [
        _where(path, call)
        for folder in folders
        for path in _python_files(folder)
        for call in _calls(path)
        if _reads_as_the_locale_says(call)
    ]
    assert not unnamed, "\n".join(unnamed)


def _repository_files() -> list[Path]:
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"the files of the repository cannot be listed without git: {error}")
    return [path for name in listed.split("\0") if name and (path := ROOT / name).is_file()]


def test_no_file_names_a_path_of_one_machine() -> None:
    paths = []
    for path in _repository_files():
        content = path.read_bytes()
        if b"\0" in content:
            continue  # binary
        for number, line in enumerate(content.decode("utf-8", errors="replace").splitlines(), start=1):
            if MACHINE_PATH.search(line):
                paths.append(f"{path.relative_to(ROOT)}:{number}")
    assert not paths, "\n".join(paths)
