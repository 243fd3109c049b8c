"""Retraining: the whole pruned model learns from text, or from the dense model's predictions."""
