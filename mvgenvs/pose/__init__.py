"""The camera of a photo, estimated from the picture alone: a small network, its input, and what its answer means."""
