"""Entry point of `python -m sspsam`, the same command as `sspsam`."""

from sspsam.cli import main

main(prog_name="sspsam")
