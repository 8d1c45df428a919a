"""Scores of EleutherAI's harness, unmodified: over our server, and in its own model.

`yearling bench harness` writes 1,200 questions, converts the model to a folder for the harness's
own `hf` model, and lets the harness ask our server the same through `local-completions`.
"""
