"""Training by gradients, of windows and of whole models."""
