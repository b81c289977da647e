"""Training and measuring: manifests, mixing and augmentation, the loop, metrics."""
