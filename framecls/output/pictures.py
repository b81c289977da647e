"""Pictures of tables, as the README shows them."""

from __future__ import annotations

from pathlib import Path

from framecls.output.files import atomic_write
from framecls.output.tables import Renderable, draw_svg


def save_svg(renderable: Renderable, path: Path, *, width: int = 100, title: str = "framecls") -> None:
    """Write what a terminal would show as an SVG file.

    Args:
        renderable: what `tag_table`, `identify_table` or rich itself returns.
        path: the file; it is replaced whole.
        width: columns of the terminal.
        title: what its title bar says.

    Raises:
        FrameclsError: the file cannot be written.
    """
    with atomic_write(path, binary=False) as stream:
        stream.write(draw_svg(renderable, width=width, title=title))
