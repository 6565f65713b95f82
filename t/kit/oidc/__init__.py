"""A real OpenID provider for tests, and keys to make tokens with that no honest provider would make."""
