"""Checkpoints: the library's own format, conversion of the authors' files, download, local store, publishing."""
