"""The benchmark of the anchor cache compares equal results, and the cached run computes the new views alone."""

import torch
from tiny import tiny_parts

from eval.benchmarks import anchor_cache
from eval.benchmarks.stage import Setup


def test_both_sides_agree_and_only_one_computes_the_anchors():
    denoiser = tiny_parts().denoiser
    setup = Setup(torch.device("cpu"))
    vars(setup)["unet"] = denoiser  # a smaller one
    for stage, anchors in zip(anchor_cache.stages(setup), anchor_cache.ANCHORS, strict=True):
        copied = stage.run.args[0]
        passed: list[int] = []
        hook = copied.unet.register_forward_pre_hook(lambda module, args, seen=passed: seen.append(len(args[0])))
        recalled, computed = stage.run(), stage.reference()
        hook.remove()
        assert passed == [anchor_cache.NEW, anchor_cache.NEW + anchors]
        assert stage.name == f"anchor_cache/{anchors}-anchors"
        torch.testing.assert_close(recalled, computed, atol=1e-5, rtol=0)
    assert denoiser.config.attention == "joint", "the one that is given stays as it was"
