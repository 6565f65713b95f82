"""One outside thing a file: sockets, the jail, HTTP, the log. Siblings never import each other."""
