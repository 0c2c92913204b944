"""Reproduction: one folder a paper, found by folder and imported by nothing but the verb that reproduces."""
