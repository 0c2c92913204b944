"""Danlu (丹炉): a folder of data in; a trained, measured, compressed, deployable model out, with proof of its numbers."""

__version__ = "0.1.0"
