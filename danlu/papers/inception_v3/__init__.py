"""Rethinking the Inception Architecture for Computer Vision."""
