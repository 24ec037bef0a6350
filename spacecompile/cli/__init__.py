"""The command line: one module per command group, errors turned into one sentence and an exit code in `main`."""
