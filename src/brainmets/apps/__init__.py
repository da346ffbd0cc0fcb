"""Doors: the command line. No logic lives here."""
