"""What is learnt from: manifests, label files and decoded clips."""
