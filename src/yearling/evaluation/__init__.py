"""Measures of models: what goes in, what should come out, and how that is counted."""
