"""How long a file is, by its header and by its data, before it is decoded."""
