"""Schemas of the outside world, turned into internal types and back; pure functions only."""
