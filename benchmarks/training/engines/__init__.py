"""One file per trainer; each runs as a program of its own and answers JSON lines.

Nothing here imports `yearling` except `yearling.py`: the peers' environment does not hold it.
"""
