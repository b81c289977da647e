"""`python -m framecls` is the `framecls` command."""

from framecls.cli import main

if __name__ == "__main__":
    main()
