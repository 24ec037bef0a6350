"""`python -m spacecompile`."""

from spacecompile.cli.main import run

run()
