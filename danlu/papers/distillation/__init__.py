"""Distilling the Knowledge in a Neural Network."""
