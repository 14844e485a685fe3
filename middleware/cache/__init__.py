"""Answers of backends kept for equal calls."""
