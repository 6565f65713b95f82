"""The processes of the server: the life of each is in a file of its own, and beside it what it is made of."""
