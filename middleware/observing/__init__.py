"""What operators see: metrics, one log line for each request, traces. None holds keys or content."""
