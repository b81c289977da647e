"""Training data: manifests, label files and decoded clips."""
