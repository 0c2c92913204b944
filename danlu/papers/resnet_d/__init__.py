"""Bag of Tricks for Image Classification with Convolutional Neural Networks."""
