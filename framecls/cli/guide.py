"""`framecls guide`: what goes beyond --help, a Markdown file a subject."""

from __future__ import annotations

import sys
from pathlib import Path

from framecls.cli.messages import DONE
from framecls.cli.options import GuideOptions
from framecls.errors import UsageError, suggest

FOLDER = Path(__file__).parent.parent / "guides"


def names() -> list[str]:
    """Return the names of the guides."""
    return sorted(path.stem for path in FOLDER.glob("*.md"))


def read_guide(name: str) -> str:
    """Return a guide as Markdown.

    Raises:
        UsageError: there is none of that name.
    """
    known = names()
    if name not in known:
        near = suggest(name, known, f"; choose {', '.join(known)}")
        raise UsageError(f"no guide is called {name!r}{near}")
    return (FOLDER / f"{name}.md").read_text(encoding="utf-8")


def show_guide(options: GuideOptions) -> int:
    """Print a guide, or without a name the list of them, and return the exit status.

    A terminal gets it laid out, a pipe or a file the Markdown itself.

    Raises:
        UsageError: there is no guide of that name.
    """
    if options.name is None:
        width = max(map(len, names()))
        sys.stdout.write("".join(f"{name:{width}}  {_subject(name)}\n" for name in names()))
        return DONE
    text = read_guide(options.name)
    if not sys.stdout.isatty():
        sys.stdout.write(text)
        return DONE
    from rich.markdown import Markdown

    from framecls.output.tables import make_console

    make_console(sys.stdout).print(Markdown(text, code_theme="ansi_dark", hyperlinks=False))
    return DONE


def _subject(name: str) -> str:
    """Return what a guide is about: the rest of its heading, `# Name: what it is about`."""
    return read_guide(name).partition("\n")[0].partition(": ")[2]
