"""Veridical: an OpenAI-compatible proxy that makes any model check its facts before it answers."""
