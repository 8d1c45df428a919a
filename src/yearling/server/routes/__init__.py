"""The routes, one file a subject; each gets the `Service` from the application's state."""
