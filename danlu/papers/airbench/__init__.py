"""94% on CIFAR-10 in 3.29 Seconds on a Single GPU."""
