"""Sentence vectors: right against sentence-transformers, and how fast."""
