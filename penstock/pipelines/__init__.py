"""Passes over splits, at home and on Beam runners, and the steps made of them."""
