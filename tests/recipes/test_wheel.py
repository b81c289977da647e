"""What of framecls/recipes is installed: the settings, and none of the scripts."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import framecls

ROOT = Path(framecls.__file__).parents[1]


def test_the_wheel_has_the_settings_and_no_scripts() -> None:
    wheel = pytest.importorskip("hatchling.builders.wheel")
    builder = wheel.WheelBuilder(str(ROOT))
    files = {file.distribution_path for file in builder.recurse_included_files()}
    recipes = {name for name in files if name.startswith("framecls/recipes/")}
    assert {f"framecls/recipes/{path.name}" for path in (ROOT / "framecls/recipes").glob("*.toml")} <= recipes
    assert not [name for name in recipes if name.endswith(".py")]
    assert {"framecls/py.typed", "framecls/weights/sound.safetensors", "framecls/training/recipe.py"} <= files


def test_the_library_does_without_the_scripts() -> None:
    texts = {path: path.read_text() for path in (ROOT / "framecls").rglob("*.py") if path.parent.name != "recipes"}
    assert len(texts) > 50
    assert not [path for path, text in texts.items() if re.search(r"(from|import) framecls\.recipes", text)]
