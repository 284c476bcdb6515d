"""Benchmarks: one module per family of stages, each with `stages(setup)`; `eval.bench` runs them all."""
