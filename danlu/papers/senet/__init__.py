"""Squeeze-and-Excitation Networks."""
