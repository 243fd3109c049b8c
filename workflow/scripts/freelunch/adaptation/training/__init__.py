"""Training of windows and of whole models by gradients."""
