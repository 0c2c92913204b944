"""Going Deeper with Convolutions."""
