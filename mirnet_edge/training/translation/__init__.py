"""Training of old-photo translation: recipe, samples, losses, stages, report."""
