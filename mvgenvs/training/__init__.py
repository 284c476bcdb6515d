"""Training: the objective, the loop, exact checkpoints, validation. Stages are configurations, not scripts."""
