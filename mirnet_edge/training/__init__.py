"""Making weights: pairs of pictures, the loss, the loop."""
