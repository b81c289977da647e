"""Model files: reading, writing, finding them by name, and what is built of them."""
