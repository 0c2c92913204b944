"""FaceNet: A Unified Embedding for Face Recognition and Clustering."""
