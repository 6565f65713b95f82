"""The response cache that all workers share, in a process of its own that outlives every worker and reload.

    table       the entries: bounded, with the least recently used leaving first
    directory   the private directory that holds the cache's socket
    server      the cache process: a `multiprocessing.Manager` server for one table
    client      how the other processes call it, with a time limit on every call

The cache is an optimization. A request whose cache call fails or is late goes on as after a miss.
"""
