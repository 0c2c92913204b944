"""Learning both Weights and Connections for Efficient Neural Networks."""
