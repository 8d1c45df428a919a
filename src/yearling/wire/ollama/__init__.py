"""Ollama's HTTP schema: chat, generate and the list of models."""
