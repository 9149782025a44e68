"""Prefect flows, one per verb; they order steps and pass paths."""
