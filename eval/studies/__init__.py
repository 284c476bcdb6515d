"""Studies. Of a model, by `eval.study`: `steps` and `plans` compare `trials` of its sampling; `levels` and `geometry`
examine its denoiser and its NeRF; `conditional` examines the sampler alone. Of training, by `eval.ablations`: what each
idea is worth (`ablation_models`, `ablation_runs`).
"""
