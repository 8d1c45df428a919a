"""What every other layer stands on: errors, messages, configuration, registry, paths."""
