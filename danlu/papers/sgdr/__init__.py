"""SGDR: Stochastic Gradient Descent with Warm Restarts."""
