"""Procedural objects: any number of cars and shapes, generated from a seed, CC0."""
