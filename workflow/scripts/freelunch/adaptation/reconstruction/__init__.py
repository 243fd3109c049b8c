"""Local reconstruction: a window of the pruned model learns the dense model's output."""
