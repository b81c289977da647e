"""Dependencies point one way, and heavy or decorative libraries stay where they belong."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import framecls
from support.commands import run_command

ROOT = Path(framecls.__file__).parent

# What each part of the package may import besides itself and the vocabulary; what that may import, it may too.
VOCABULARY = {
    "_version",
    "errors",
    "packages",
    "config",
    "replacing",
    "report",
    "results",
    "shapes",
    "statefile",
    "text",
    "textfiles",
}
MAY_IMPORT: dict[str, set[str]] = {
    "audio": set(),
    "nn": set(),
    "output": {"audio"},  # a figure shows the sound
    "checkpoints": {"nn"},
    "inference": {"audio", "checkpoints"},
    "speakers": {"inference"},
    "training": {"speakers"},
    "model": {"speakers"},
    "": {"model", "training"},  # framecls/__init__.py, the public API
    "bench": {"model"},
    "cluster": {"model"},
    "cli": {"bench", "cluster", "training", "output"},
    "recipes": {"", "model", "training"},
    "__main__": {"cli"},
}


def module_name(path: Path) -> str:
    """Return `framecls.a.b` for framecls/a/b.py, and `framecls.a` for framecls/a/__init__.py."""
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(ROOT.rglob("*.py"))}


def unit(module: str) -> str:
    """Return the part of the package that a module belongs to: `nn` for framecls.nn.encoder."""
    return module.split(".")[1] if "." in module else ""


def below(part: str) -> set[str]:
    """Return the parts that a part may import, itself and the vocabulary included."""
    return {part} | VOCABULARY | set().union(*(below(other) for other in MAY_IMPORT.get(part, ())))


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


# A result draws itself: what stands above the vocabulary is imported where it is asked to.
DRAWN_BY = {
    "framecls.results": {"framecls.output.plots", "framecls.output.notebook"},
    "framecls.report": {"framecls.output.report", "framecls.output.notebook"},
}


@pytest.mark.parametrize("module", MODULES)
def test_imports_only_what_the_picture_shows(module: str) -> None:
    if unit(module) in VOCABULARY:
        allowed = VOCABULARY
    else:
        assert unit(module) in MAY_IMPORT, f"{module} has no place in the layers of this test"
        allowed = below(unit(module))
    assert not imported(module, lazy=False) & DRAWN_BY.get(module, set())
    for other in own(imported(module)) - DRAWN_BY.get(module, set()):
        assert unit(other) in allowed, f"{module} imports {other}, which is not below it"


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


# Parts that import torch only inside functions: a usage error or a model card must not wait for it.
TORCH_FREE = VOCABULARY | {"", "audio", "output", "cli", "cluster"}
TORCH_FREE_MODULES = {"checkpoints.file", "checkpoints.registry", "checkpoints.network", "speakers.gallery"}


@pytest.mark.parametrize(
    "module", [m for m in MODULES if unit(m) in TORCH_FREE or m.removeprefix("framecls.") in TORCH_FREE_MODULES]
)
def test_torch_is_imported_only_when_it_is_needed(module: str) -> None:
    heavy = {"torch", "torchaudio", "librosa", "scipy", "sklearn", "ray"}
    assert not heavy & packages(module, lazy=False)


@pytest.mark.parametrize("module", [m for m in MODULES if unit(m) != "recipes"])
def test_what_only_a_part_needs_is_imported_only_when_it_is_needed(module: str) -> None:
    optional = {
        "transformers",
        "torchaudio",
        "librosa",
        "numba",
        "scipy",
        "sklearn",
        "ray",
        "pyarrow",
        "matplotlib",
        "pandas",
        "pyannote",
        "onnx",
        "onnxruntime",
    }
    assert not optional & packages(module, lazy=False)


PYPROJECT = tomllib.loads((ROOT.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PYPROJECT["optional-dependencies"].keys() - {"test"}
DISTRIBUTIONS = {
    "sklearn": "scikit-learn",
    "pympi": "pympi-ling",
    "pyannote": "pyannote.metrics",
}  # of modules that are called otherwise
# The scripts that made the shipped models say themselves what they need.
SHIPPED = [module for module in MODULES if unit(module) != "recipes"]


def declared(*extras: str) -> set[str]:
    """Return the packages that pyproject.toml asks for, always or for one of these extras."""
    optional = PYPROJECT["optional-dependencies"]
    wanted = [*PYPROJECT["dependencies"], *(line for extra in extras for line in optional[extra])]
    return {re.split(r"[^\w.-]", line, maxsplit=1)[0] for line in wanted}


def loaded_by_name(module: str) -> set[str]:
    """Return the packages that a module names to what loads packages that may be missing."""
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    if "framecls.packages" not in imported(module) | {module}:
        return set()
    words = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    modules = {name: module for module, name in DISTRIBUTIONS.items()}
    return {word.partition(".")[0] for word in words} & {
        modules.get(name, name.replace("-", "_")) for name in declared(*EXTRAS)
    }


def test_each_third_party_import_is_declared_and_each_declared_package_is_imported() -> None:
    names = set().union(*(packages(module) for module in SHIPPED)) - sys.stdlib_module_names - {"framecls"}
    assert {DISTRIBUTIONS.get(name, name) for name in names} <= declared(*EXTRAS)
    names |= set().union(*map(loaded_by_name, SHIPPED))
    assert declared(*EXTRAS) == {DISTRIBUTIONS.get(name, name) for name in names}


LONGEST_CHAIN = 16  # modules of which each imports the next


def test_chains_of_imports_are_short_and_have_no_cycle() -> None:
    edges = {module: own(imported(module, lazy=False)) & MODULES.keys() for module in MODULES}
    chains: dict[str, tuple[str, ...]] = {}

    def longest_from(module: str, path: tuple[str, ...]) -> tuple[str, ...]:
        assert module not in path, " -> ".join((*path, module))
        if module not in chains:
            below = [longest_from(other, (*path, module)) for other in edges[module] - {module}]
            chains[module] = (module, *max(below, key=len, default=()))
        return chains[module]

    longest = max((longest_from(module, ()) for module in MODULES), key=len)
    assert len(longest) <= LONGEST_CHAIN, " -> ".join(longest)


@pytest.mark.parametrize("statement", ["import framecls", "import framecls.cli.app"])
def test_importing_is_cheap(statement: str) -> None:
    heavy = ("torch", "torchaudio", "librosa", "scipy", "sklearn", "soundfile", "numba", "ray")
    code = f"import sys; {statement}; print([name for name in {heavy!r} if name in sys.modules])"
    answer = run_command(code=code)
    assert (answer.out, answer.err) == ("[]\n", "")
