"""PyTorch image classification: one network, one thing varied at a time."""
