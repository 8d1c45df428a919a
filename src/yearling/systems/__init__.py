"""The catalogue: every system of the year, what it claims, and what its claim measures here."""
