"""Searching for MobileNetV3."""
