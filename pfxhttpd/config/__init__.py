"""The configuration: reading and checking the file, and the frozen settings made from it."""
