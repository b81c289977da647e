"""Figures of a model on labelled recordings."""
