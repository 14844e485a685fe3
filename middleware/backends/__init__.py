"""Model backends: each one answers `chat`, whatever stands behind it."""
