"""Readers of referring-expression data sets: annotation files as their owners publish them -> entries."""
