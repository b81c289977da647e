"""Dependencies point one way, and heavy or decorative libraries stay where they belong."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import framecls

ROOT = Path(framecls.__file__).parent

# From the bottom up: a module sees its own layer and the ones under it. A new module must be given a place here.
LAYERS: list[set[str]] = [
    {"_version", "errors", "packages", "config", "results", "timeline", "statefile", "textfiles"},
    {"modelfile", "pretrained"},
    {"audio", "mel", "features", "gallery", "encoder_sources", "speech_encoder"},
    {"nn"},
    {"checkpoint"},
    {"batching", "engine"},
    {"ctc", "tagging", "strings", "identification", "speakers", "runtime", "export", "bench", "training", "recipes"}
    | {"cluster"},
    {""},  # framecls/__init__.py, the public API
    {"cli"},
    {"__main__"},
]
VOCABULARY = LAYERS[0]


def module_name(path: Path) -> str:
    """Return `framecls.a.b` for framecls/a/b.py, and `framecls.a` for framecls/a/__init__.py."""
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(ROOT.rglob("*.py"))}


def unit(module: str) -> str:
    """Return the part of the package that a module belongs to: `nn` for framecls.nn.encoder."""
    return module.split(".")[1] if "." in module else ""


def rank(module: str) -> int:
    """Return the number of a module's layer, lowest first."""
    for number, layer in enumerate(LAYERS):
        if unit(module) in layer:
            return number
    raise AssertionError(f"{module} has no place in the layers of this test")


def walk(tree: ast.AST, *, lazy: bool) -> Iterator[ast.AST]:
    """Visit the nodes of a module, without what only a type checker reads; `lazy`: also inside functions."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        if not lazy and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        yield node
        yield from walk(node, lazy=lazy)


def imported(module: str, *, lazy: bool = True) -> set[str]:
    """Return the full names of the modules that a module imports."""
    names: set[str] = set()
    for node in walk(ast.parse(MODULES[module].read_text(encoding="utf-8")), lazy=lazy):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import; the project writes full names"
            base = node.module or ""
            parts = {f"{base}.{alias.name}" for alias in node.names}
            submodules = parts & MODULES.keys()
            names.update(submodules)
            if len(submodules) < len(parts):
                names.add(base)
    return names


def packages(module: str, *, lazy: bool = True) -> set[str]:
    """Return the top-level packages that a module imports."""
    return {name.partition(".")[0] for name in imported(module, lazy=lazy)}


def own(names: set[str]) -> set[str]:
    """Keep the modules of framecls."""
    return {name for name in names if name.partition(".")[0] == "framecls"}


@pytest.mark.parametrize("module", [m for m in MODULES if unit(m) != "output"])
def test_sees_only_its_layer_and_those_under_it(module: str) -> None:
    for other in own(imported(module)):
        if unit(other) == "output":
            assert unit(module) == "cli", f"{module} imports {other}: only the command line writes"
        else:
            assert rank(other) <= rank(module), f"{module} imports {other}, which is above it"


@pytest.mark.parametrize("module", [m for m in MODULES if unit(m) == "output"])
def test_output_sees_only_the_vocabulary(module: str) -> None:
    others = {unit(other) for other in own(imported(module))} - {"output"}
    assert others <= VOCABULARY


@pytest.mark.parametrize("module", MODULES)
def test_rich_and_typer_stay_where_they_belong(module: str) -> None:
    if unit(module) != "cli":
        assert "typer" not in packages(module)
        if module != "framecls.output.tables":
            assert "rich" not in packages(module)


@pytest.mark.parametrize("module", MODULES)
def test_no_print(module: str) -> None:
    calls = [
        n for n in walk(ast.parse(MODULES[module].read_text(encoding="utf-8")), lazy=True) if isinstance(n, ast.Call)
    ]
    assert not [n.lineno for n in calls if isinstance(n.func, ast.Name) and n.func.id == "print"]


TORCH_FREE = {
    "", "_version", "errors", "packages", "config", "results", "timeline", "statefile", "gallery", "checkpoint",
    "pretrained",
    "output", "cli", "cluster",
}  # fmt: skip


@pytest.mark.parametrize("module", [m for m in MODULES if unit(m) in TORCH_FREE])
def test_torch_is_imported_only_when_it_is_needed(module: str) -> None:
    heavy = {"torch", "torchaudio", "librosa", "scipy", "sklearn", "ray"}
    assert not heavy & packages(module, lazy=False)


@pytest.mark.parametrize("module", [m for m in MODULES if unit(m) != "recipes"])
def test_what_only_a_part_needs_is_imported_only_when_it_is_needed(module: str) -> None:
    optional = {"torchaudio", "librosa", "numba", "scipy", "sklearn", "ray", "pyarrow", "onnx", "onnxruntime"}
    assert not optional & packages(module, lazy=False)


def test_no_import_cycles() -> None:
    edges = {module: own(imported(module, lazy=False)) & MODULES.keys() for module in MODULES}
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join((*path, module))
        if module not in done:
            for other in edges[module] - {module}:
                visit(other, (*path, module))
            done.add(module)

    for module in MODULES:
        visit(module, ())


@pytest.mark.parametrize("statement", ["import framecls", "import framecls.cli.app"])
def test_importing_is_cheap(statement: str) -> None:
    heavy = ("torch", "torchaudio", "librosa", "scipy", "sklearn", "soundfile", "numba", "ray")
    code = f"import sys; {statement}; print([name for name in {heavy!r} if name in sys.modules])"
    environment = {**os.environ, "PYTHONPATH": str(ROOT.parent)}
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert answer.stdout.strip() == "[]"
