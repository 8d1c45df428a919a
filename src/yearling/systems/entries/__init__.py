"""The systems that are built: one file each, and this folder is the list.

The file's stem is the slug with `_` for `-`; a slug that begins with a digit gets `system_` in
front: `entries/llama_2_long.py`, `entries/system_4_bit_optimizers.py`. `systems/system.py` says
what a file holds.
"""
