"""The ways of training that ours is measured against: each a class with ``prepare`` and ``steps``."""
