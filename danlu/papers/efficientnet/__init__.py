"""EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks."""
