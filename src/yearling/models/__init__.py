"""Models: what a decoder is, how its files are read, how its text is tokenised."""
