"""Ollama's HTTP schema: chat, generate, embed, and what it tells of models."""
