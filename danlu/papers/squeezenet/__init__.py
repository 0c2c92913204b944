"""SqueezeNet: AlexNet-level accuracy with 50x fewer parameters and <0.5MB model size."""
