"""Deep Residual Learning for Image Recognition."""
