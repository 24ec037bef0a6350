"""The bundle on disk: its files, its manifest and where they came from."""
