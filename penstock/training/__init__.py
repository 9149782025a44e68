"""Feeding a training loop and learning from it."""
