"""One process a file, each read from top to bottom as that process's life."""
