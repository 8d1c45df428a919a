"""Serving: requests, paged cache, one scheduler, engines, and one worker process per model."""
