"""MobileNets: Efficient Convolutional Neural Networks for Mobile Vision Applications."""
