"""The command `hf-optical`. Each subcommand parses its options and calls the library."""

from .main import main


__all__ = ["main"]
