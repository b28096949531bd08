"""Training: image pairs, data augmentation, loss, training loop."""
