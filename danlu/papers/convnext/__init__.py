"""A ConvNet for the 2020s."""
