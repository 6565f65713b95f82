"""The benchmark of pfxhttpd. `run` is its command; README.md says how to read what it prints."""
