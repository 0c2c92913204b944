"""Gradient-Based Learning Applied to Document Recognition."""
