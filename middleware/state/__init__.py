"""What outlives a request, behind one small interface: an SQLite file, or PostgreSQL."""
