"""A query in, ranked passages out: langchain-core retrievers over files and remote sources."""
