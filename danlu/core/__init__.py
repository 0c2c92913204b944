"""Torch-free foundations: errors, files, settings, registries, seeds, records, the network door, progress."""
