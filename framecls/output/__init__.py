"""Results on their way out: `writers` for machines, `tables` for people."""
