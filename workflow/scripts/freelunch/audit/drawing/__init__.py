"""Drawings of the figures that show claims."""
