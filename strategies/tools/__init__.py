"""Tools that a strategy may use beside models: a search, an interpreter, a scorer."""
