"""Runnable modules that make training data; nothing in the library needs them."""
