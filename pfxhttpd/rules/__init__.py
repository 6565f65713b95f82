"""Decisions as pure functions of values. The time is an argument where it matters."""
