"""Sentence vectors: the same as sentence-transformers', and how many a second.

Read in this order: `sentences` (what is embedded), `engines/` (who answers, each in a process of
its own), `run` (in which order, and the report).
"""
