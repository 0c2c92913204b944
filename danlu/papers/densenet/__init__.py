"""Densely Connected Convolutional Networks."""
