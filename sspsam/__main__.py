"""`python -m sspsam` is `sspsam`."""

from sspsam.cli import main

main(prog_name="sspsam")
