"""CutMix: Regularization Strategy to Train Strong Classifiers with Localizable Features."""
