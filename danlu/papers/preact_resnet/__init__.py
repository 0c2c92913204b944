"""Identity Mappings in Deep Residual Networks."""
