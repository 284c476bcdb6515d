"""Metrics: each module maps images to numbers, and knows nothing of runs, tables or files.

For one image against the true one: `image`, and LPIPS in `mvgenvs.perceptual`. For a set of images: `features`,
`frechet`. For a sequence of views: `tsed`, `warp`, `flicker`, `loop`, `radiance`, and all of them in `consistency`.
`suite` holds the metrics of a run and the networks that they need.
"""
