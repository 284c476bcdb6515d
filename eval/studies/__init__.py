"""Studies of how sequences are sampled: `python -m eval.study --help`."""
