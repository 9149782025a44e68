"""Cutting text into tokens and tokens into training sequences."""
