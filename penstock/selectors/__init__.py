"""Choosing rows: cleaning, filters, duplicates, quality, QuaDMix, feedback from training."""
