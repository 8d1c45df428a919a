"""Data: rows of any usual format to token ids with loss masks, with nothing lost in silence."""
