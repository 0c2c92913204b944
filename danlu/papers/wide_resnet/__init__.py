"""Wide Residual Networks."""
