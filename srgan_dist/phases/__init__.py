"""Phases of the training: stretches with their own objective, networks and optimisers."""
