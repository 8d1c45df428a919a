"""A model's GGUF file to a folder and back: the same answers from three engines, before and after.

Read in this order: `forms` (which engine answers with which files), `engines/` (how, each in a
process of its own), `comparison` (what is the same, and the report), `run` (in which order).
"""
