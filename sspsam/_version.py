"""The version of the package; `setup.cfg` and `sspsam.__version__` read it here."""

__version__ = "0.1.0"
