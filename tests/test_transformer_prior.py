"""The transformer's prior: what an untrained network makes of its rendering, its noisy input and other views."""

import torch
from test_transformer import inputs, parts
from tiny import SIZE, Solid, ray_cast, ring_cameras, stacked
from torch import nn
from torch.nn import functional as F

from mvgenvs.diffusion.noise import preconditioning
from mvgenvs.diffusion.patches import cosine_basis
from mvgenvs.nerf.model import Rendering


def untrained(**settings):
    made = parts(seed=1, **settings).denoiser
    nn.init.zeros_(made.leave.weight)
    nn.init.zeros_(made.leave.bias)
    return made


@torch.no_grad()
def test_the_untrained_network_alone_is_its_preconditioning():
    """With components that are all alike, and where the deviation is the same all over a patch."""
    denoiser = untrained(std_slope=0.0, std_floor=0.4, std_air=0.4)
    xt, sigma, conditions = inputs(denoiser)
    scale = preconditioning(sigma[..., None, None, None], 0.4)
    expected = conditions.mean + scale.c_skip * (xt - conditions.mean)
    torch.testing.assert_close(denoiser(xt, sigma, conditions, joint=False), expected)


@torch.no_grad()
def test_each_component_of_a_patch_is_filtered_by_its_own_deviation():
    """Where only the constant component may differ from the rendering, speckle goes and the mean stays."""
    denoiser = untrained(std_slope=0.0, std_floor=0.4, std_air=0.4)
    spectrum = torch.full((3, 64), 1e-4)
    spectrum[:, 0] = 8.0
    denoiser.register_to_config(std_spectrum=spectrum.flatten().tolist())
    xt, _, conditions = inputs(denoiser)
    sigma = torch.full((1, 4), 0.1)
    out = denoiser(xt, sigma, conditions, joint=False) - conditions.mean
    near = conditions.maps[:, :, -1].flatten(0, 1)[:, None].bool().expand(-1, 3, -1, -1)
    patches = F.avg_pool2d((xt - conditions.mean).flatten(0, 1), 8)
    torch.testing.assert_close(F.avg_pool2d(out.flatten(0, 1), 8)[near], patches[near], rtol=1e-2, atol=1e-3)
    speckle = out.flatten(0, 1) - F.interpolate(F.avg_pool2d(out.flatten(0, 1), 8), scale_factor=8)
    assert speckle[near.repeat_interleave(8, 2).repeat_interleave(8, 3)].abs().max() < 1e-3


@torch.no_grad()
def test_gains_scale_the_noisy_input_component_by_component():
    """A gain of -s / sigma takes all of the noisy input away, and one of sigma / s all of the shrinking."""
    denoiser = untrained(std_slope=0.0, std_floor=0.4, std_air=0.4)
    xt, _, conditions = inputs(denoiser)
    sigma, components = torch.full((1, 4), 0.2), 3 * 8**2
    near = conditions.maps[:, :, -1, None].repeat_interleave(8, -1).repeat_interleave(8, -2).bool()
    for gain, expected in ((-0.4 / 0.2, conditions.mean), (0.2 / 0.4, xt)):
        denoiser.leave.bias[components : 2 * components] = gain
        out = denoiser(xt, sigma, conditions, joint=False)
        torch.testing.assert_close(out[near.expand_as(out)], expected[near.expand_as(out)], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_the_untrained_network_is_told_by_clean_neighbours():
    """The error of a noisy view of a ball of one colour, whose rendering has another one, falls with them in sight:
    the more, once it was measured that what they show is true.
    """
    denoiser = untrained(std_ceiling=0.5, patch=4, render_size=32)
    ball, cameras = [Solid((0.0, 0.0, 0.0), 0.3, (0.9, 0.2, 0.1))], ring_cameras(8, elevation=0.0)
    views = ray_cast(ball, cameras)
    grey = torch.where(views.mask > 0, 0.5, 1.0).expand(-1, 16, -1, -1)
    seen = Rendering(grey[None], views.depth[None], views.mask[None])
    conditions = denoiser.conditions(seen, seen.rgb * 2 - 1, stacked(cameras, 1))
    x0, sigma = views.images[None] * 2 - 1, torch.full((1, 8), 1e-3)
    sigma[:, 0] = 4.0
    xt = x0 + sigma[..., None, None, None] * torch.randn(x0.shape, generator=torch.Generator().manual_seed(0))
    errors = [(denoiser(xt, sigma, conditions, joint=joint) - x0)[:, 0].square().mean() for joint in (False, True)]
    denoiser.fit_moves([(x0, conditions)] * 20, least=0.01)
    errors.append((denoiser(xt, sigma, conditions) - x0)[:, 0].square().mean())
    assert errors[1] < 0.6 * errors[0] and errors[2] < 0.85 * errors[1]


def test_the_cosine_basis_is_orthonormal_and_begins_with_the_mean():
    basis = cosine_basis(8)
    torch.testing.assert_close(basis @ basis.T, torch.eye(64), rtol=0, atol=1e-5)
    torch.testing.assert_close(basis[0], torch.full((64,), 1 / 8))
    denoiser = parts().denoiser
    latents = torch.randn(2, 3, SIZE, SIZE)
    tokens = denoiser.patches.tokens(latents[None], torch.arange(2 * 16))
    torch.testing.assert_close(denoiser.patches.pixels(denoiser.patches.spectral(tokens)), tokens)
    listed = denoiser.components(latents).flatten(2).mT.flatten(0, 1)
    torch.testing.assert_close(denoiser.patches.spectral(tokens)[0], listed)
