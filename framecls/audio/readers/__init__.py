"""One reader for each way in which samples arrive; all of them offer what `base.Reader` says."""
