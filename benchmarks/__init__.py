"""Measurements against named peers; they need a checkout and are no part of the wheel."""
