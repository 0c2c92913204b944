"""CSPNet: A New Backbone that can Enhance Learning Capability of CNN."""
