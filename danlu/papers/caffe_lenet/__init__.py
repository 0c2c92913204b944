"""Caffe: Convolutional Architecture for Fast Feature Embedding."""
