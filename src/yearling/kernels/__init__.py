"""The native core's Python face: operations, the program that runs them, and their meaning."""
