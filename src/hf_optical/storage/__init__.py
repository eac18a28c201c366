"""Folders and files that may be damaged, hostile or on the Hub: reading, writing, fetching, publishing."""
