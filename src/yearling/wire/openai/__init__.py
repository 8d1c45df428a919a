"""OpenAI's HTTP schemas: chat completions, completions, models, errors, stream chunks."""
