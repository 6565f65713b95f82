"""A drill of pfxhttpd under faults. `run` is its command; README.md says what it does."""
