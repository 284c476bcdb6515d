"""Evaluation. It imports mvgenvs, and mvgenvs never imports it.

Commands, `python -m eval.NAME`: `run`, `compare`, `readme`; `study`, `ablations`; `bench`, `throughput`.
`evaluation` is what `run` does, and `object_evaluation` its work on one object: `protocols` choose the views, `methods`
predict them, `metrics/` measures them, `report/` writes it all down. `studies/` and `benchmarks/` are what is left.
"""
