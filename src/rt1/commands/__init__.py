"""The commands: one file each, a dataclass of options and what it runs. :mod:`rt1.cli` parses them."""
