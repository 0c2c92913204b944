"""High-Performance Large-Scale Image Recognition Without Normalization."""
