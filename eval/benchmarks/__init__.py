"""Benchmarks of speed. `nerf`, `denoiser`, `attention` and `anchor_cache` make the stages that `eval.bench` times
against the machine's `ceilings`; `training` has the steps that `eval.throughput` times. `measure` does the timing.
"""
