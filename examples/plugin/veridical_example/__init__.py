"""A strategy and a retriever for Veridical, to copy from."""
