"""Aggregated Residual Transformations for Deep Neural Networks."""
