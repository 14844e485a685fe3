"""Several servers behind one name: which is asked, how many requests it has, and who takes its place."""
