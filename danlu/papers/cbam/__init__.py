"""CBAM: Convolutional Block Attention Module."""
