"""The models that `eval.ablations` trains: each lacks one idea, or replaces it."""

from dataclasses import dataclass, field
from pathlib import Path

from eval.methods import JOINT, NERF
from eval.report.records import folder_name

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Ablation:
    """One model: how its training differs from the group's configuration."""

    name: str
    changes: dict[str, str] = field(default_factory=dict)
    sampling: tuple[str, ...] = ("--steps", "2", "--guidance", "1")

    @property
    def folder(self) -> str:
        return folder_name(self.name)


@dataclass(frozen=True)
class Group:
    """Models that are comparable. The first is the one that lacks nothing."""

    config: Path
    losses: tuple[str, ...]  # of the objective, on val
    method: str  # the row of `eval.run` that the table shows
    models: tuple[Ablation, ...]


MANY_STEPS = ("--steps", "10", "--guidance", "1")  # two steps do not suffice without a rendering to start from
GROUPS = {
    "denoiser": Group(
        ROOT / "configs/ablation_denoiser.yaml",
        losses=("denoise",),
        method=JOINT,
        models=(
            Ablation("everything"),
            Ablation("everything, another seed", {"run.seed": "1"}),
            Ablation("no joint attention", {"denoiser.attention": "independent"}),
            Ablation("block-causal attention", {"denoiser.attention": "block-causal"}),
            Ablation("no clean anchors in training", {"loss.clean_known": "0"}),
            Ablation("noise law: high", {"loss.noise_law": "high"}),
            Ablation("noise law: high to low", {"loss.noise_law": "high-to-low"}),
            Ablation("noise law: low", {"loss.noise_law": "low"}),
            Ablation("rendering without ray map", {"denoiser.plucker": "false"}),
            Ablation("rendering as condition, not as prior", {"denoiser.render_prior": "false"}, MANY_STEPS),
            Ablation(
                "ray map without rendering (as 3DiM)",
                {"denoiser.render_prior": "false", "loss.drop_condition": "1"},
                ("--steps", "10", "--guidance", "0"),  # 0 is the branch that sees no rendering
            ),
            Ablation("field learns too", {"run.train": "[nerf, denoiser]"}),
            Ablation(
                "pixels instead of latents, as long",
                {
                    "codec.kind": "identity",
                    "denoiser.render_size": "128",
                    "denoiser.condition_scale": "1",
                    "denoiser.block_out_channels": "[32, 32, 64, 96]",
                    "denoiser.attention_levels": "[false, false, false, true]",
                    "loss.noise_draws": "1",
                    "optim.steps": "30",
                },
            ),
        ),
    ),
    "field": Group(
        ROOT / "configs/ablation_field.yaml",
        losses=("rgb", "depth"),
        method=NERF,
        models=(
            Ablation("everything"),
            Ablation("no depth supervision", {"loss.depth": "0"}),
            Ablation("no world coordinates", {"nerf.world_coordinates": "false"}),
        ),
    ),
}
