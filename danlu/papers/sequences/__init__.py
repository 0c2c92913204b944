"""An Empirical Evaluation of Generic Convolutional and Recurrent Networks for Sequence Modeling."""
