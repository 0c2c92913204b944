"""mixup: Beyond Empirical Risk Minimization."""
