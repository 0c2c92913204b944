"""Xception: Deep Learning with Depthwise Separable Convolutions."""
