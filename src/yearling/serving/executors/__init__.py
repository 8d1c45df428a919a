"""What runs a model's step under the scheduler."""
