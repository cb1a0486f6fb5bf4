"""Windows, their order, augmentation and batches."""
