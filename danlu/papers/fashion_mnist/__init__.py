"""Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning Algorithms."""
