"""Measurements; each module says the command that reproduces its numbers."""
