"""Metrics for other programs: an HTTP server, the format of Prometheus, and what the kernel knows of our processes."""
