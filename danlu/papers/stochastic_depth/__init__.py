"""Deep Networks with Stochastic Depth."""
