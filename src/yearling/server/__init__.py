"""The HTTP server: thin routes over loaded models, and the web page; no logic of its own."""
