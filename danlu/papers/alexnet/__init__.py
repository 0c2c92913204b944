"""ImageNet Classification with Deep Convolutional Neural Networks."""
