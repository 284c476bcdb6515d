"""Losses, each a function of what is rendered or denoised and of what it should be; the objective asks for them."""
