"""Scoring anyone's views: folders of posed images (`folders`), the truth that shows the same views (`matching`),
the world in which they are measured (`world`), and the evaluation of all objects (`scores`). See `eval.score`.
"""
