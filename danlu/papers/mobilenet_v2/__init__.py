"""MobileNetV2: Inverted Residuals and Linear Bottlenecks."""
