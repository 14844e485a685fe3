"""Evaluations: inspect_ai tasks that measure any OpenAI-compatible endpoint."""
