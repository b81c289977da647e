"""Training examples made of recordings: mixing, augmentation, batches."""
