"""Inception-v4, Inception-ResNet and the Impact of Residual Connections on Learning."""
