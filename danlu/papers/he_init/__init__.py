"""Delving Deep into Rectifiers: Surpassing Human-Level Performance on ImageNet Classification."""
