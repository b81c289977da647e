"""Results on their way out: `writers` for machines, `tables` and `pictures` for people."""
