"""RandAugment: Practical automated data augmentation with a reduced search space."""
