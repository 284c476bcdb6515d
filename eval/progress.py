"""The progress bar of all evaluations and studies."""

from tqdm import tqdm

BAR = "{desc}: {percentage:3.0f}% |{bar}| {elapsed} so far, {remaining} left{postfix}"


def progress_bar(total: int, what: str, quiet: bool = False) -> tqdm:
    """A bar of `total` steps; the remaining time follows from the mean of all steps so far."""
    return tqdm(total=total, desc=what, bar_format=BAR, smoothing=0, disable=quiet)
