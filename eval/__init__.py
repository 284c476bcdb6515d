"""Evaluation. It imports mvgenvs, and mvgenvs never imports it.

Commands, `python -m eval.NAME`: `run`, `compare`, `readme`; `study`, `ablations`; `bench`, `throughput`.
`evaluation` is the work of `run`, and `object_evaluation` its part for one object: `protocols` choose the views,
`methods` predict them, `metrics/` measures them, `report/` writes the results. `studies/` and `benchmarks/` serve the
other commands.
"""
