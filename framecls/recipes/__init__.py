"""The scripts that made the shipped models, and that measured the figures of the guide `figures`.

They run from a checkout as `python -m framecls.recipes.NAME`, and nothing in the library needs them: a wheel has the
settings beside them, `*.toml`, and no script.
"""
