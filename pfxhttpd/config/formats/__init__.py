"""The formats that a configuration file may have, one module each, named after the format.

Each has a function `parse(text, file)` that returns the tree of nodes (None when the file holds nothing) and the
mistakes that still leave a tree. It raises `ConfigError` when the text is not in that format at all.
"""
