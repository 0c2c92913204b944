"""ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture Design."""
