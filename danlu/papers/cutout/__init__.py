"""Improved Regularization of Convolutional Neural Networks with Cutout."""
