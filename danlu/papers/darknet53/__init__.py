"""YOLOv3: An Incremental Improvement."""
