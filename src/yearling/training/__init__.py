"""Training: one loop, and a file for each method, optimizer and adapter."""
