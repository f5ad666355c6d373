"""Weights of pretrained networks and frozen networks, for losses, encoders and evaluators."""
