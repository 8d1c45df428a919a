"""One million tokens through models whose memory has one size: as fast at the end, and no larger.

Read in this order: `tiny_models` (what runs), `run` (how, and the verdict).
"""
