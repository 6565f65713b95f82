"""Decisions: pure functions of values, with the time passed in."""
