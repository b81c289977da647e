"""The `framecls` command: parse, call, print. Everything it can do is in the library too."""

from framecls.cli.boundary import main

__all__ = ["main"]
