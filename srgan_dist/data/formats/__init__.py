"""Formats of images and volumes: a file of one format each."""
