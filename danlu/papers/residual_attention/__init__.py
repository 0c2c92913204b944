"""Residual Attention Network for Image Classification."""
