"""Network In Network."""
