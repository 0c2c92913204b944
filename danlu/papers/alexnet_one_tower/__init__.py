"""One weird trick for parallelizing convolutional neural networks."""
