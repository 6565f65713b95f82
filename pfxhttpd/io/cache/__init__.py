"""The response cache that all workers share: its table, its process, and how a worker reaches it."""
