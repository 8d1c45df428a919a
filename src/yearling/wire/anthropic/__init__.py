"""Anthropic's HTTP schema: messages, in and out, and errors."""
