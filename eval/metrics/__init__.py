"""Metrics: each module takes images to figures, and knows nothing of runs, tables or files.

Of one image beside the true one: `image`, and LPIPS in `mvgenvs.perceptual`. Of a set of images: `features`, `frechet`.
Of a sequence of views: `tsed`, `warp`, `flicker`, `loop`, `radiance`, and all of them in `consistency`. `suite` holds
the metrics of a run and the networks that they need.
"""
