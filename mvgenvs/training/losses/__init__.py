"""Losses, as functions of renderings or denoised views and their targets; called by the objective."""
