"""ShuffleNet: An Extremely Efficient Convolutional Neural Network for Mobile Devices."""
