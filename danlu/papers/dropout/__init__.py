"""Dropout: A Simple Way to Prevent Neural Networks from Overfitting."""
