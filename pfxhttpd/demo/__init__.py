"""What `pfxhttpd demo` shows: a small HTTP API and the configuration that asks it. Only cli/ uses this room."""
