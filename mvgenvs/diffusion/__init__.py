"""Joint diffusion of the views of a set: codec, noise laws, denoiser, samplers, re-noising, sequence plans."""
