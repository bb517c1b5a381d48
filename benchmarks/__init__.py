"""Measurements of speed, memory and precision; the docstring of each module names the command that runs it."""
