"""Training methods: one file each; the file's stem is the word in YAML and on the command line."""
