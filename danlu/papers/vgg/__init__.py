"""Very Deep Convolutional Networks for Large-Scale Image Recognition."""
