"""Objects without end, made of numbers: cars and shapes drawn from a seed, CC0."""
