"""A loaded network over recordings: windows, batches, and what their scores become."""
