"""pytorch-cifar100: 43 networks with one recipe."""
