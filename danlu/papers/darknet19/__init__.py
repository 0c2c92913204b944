"""YOLO9000: Better, Faster, Stronger."""
