"""Formats, one a file: each reads and writes, and keeps LPS and headers to itself."""
