"""Fine-tuning: tokens a second and memory against TRL at its best setting, and the same loss.

Read in this order: `rows` (what is learned), `engines/` (who trains, each in a process of its
own), `run` (the sweep and its order), `report`.
"""
