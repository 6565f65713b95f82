"""One question a file: how a request of each protocol is answered, from query to reply."""
