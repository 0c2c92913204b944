"""Res2Net: A New Multi-scale Backbone Architecture."""
