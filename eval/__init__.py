"""Evaluation: metrics, protocols, baselines and reports. Imports mvgenvs; mvgenvs never imports this."""
