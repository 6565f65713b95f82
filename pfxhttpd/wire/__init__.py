"""Bytes to values and back: the three protocols, without sockets, clocks or logging."""
