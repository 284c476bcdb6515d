"""The models that `eval.ablations` trains: each lacks one idea, or replaces it."""

from dataclasses import dataclass, field
from pathlib import Path

from eval.methods import DISTILLED, JOINT, NERF
from eval.report.records import folder_name
from mvgenvs.config import SHIPPED

ROOT = Path(__file__).parents[2]  # of a checkout, or where packages are installed: the scripts lie there, too


@dataclass(frozen=True)
class Ablation:
    """One model: how its training differs from the group's configuration."""

    name: str
    changes: dict[str, str] = field(default_factory=dict)
    sampling: tuple[str, ...] = ("--steps", "2", "--guidance", "1")
    config: Path | None = None
    """its own configuration, instead of the group's"""
    methods: tuple[str, ...] = ()
    """the rows of `eval.run` that the table shows of it, instead of the group's"""
    trained: bool = True
    """false: nothing is trained, and the bundled model is shown"""

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
    metrics: tuple[str, ...] = ("psnr", "lpips-alex", "warp-psnr", "warp-lpips", "flicker")
    measured: tuple[str, ...] = ("consistency",)  # as `--metrics` of `eval.run`
    costs: bool = False  # whether the table also shows parameters, steps and seconds per view

    def config_of(self, model: Ablation) -> Path:
        return model.config or self.config

    def methods_of(self, model: Ablation) -> tuple[str, ...]:
        return model.methods or (self.method,)


MANY_STEPS = ("--steps", "10", "--guidance", "1")  # two steps do not suffice without a rendering to start from
BASELINES = SHIPPED / "baselines"
AUTOREGRESSIVE = (*MANY_STEPS, "--plan", "autoregressive", "--block", "1")
STOCHASTIC = ("--steps", "20", "--churn", "10", "--guidance", "1", "--plan", "stochastic", "--block", "1")
ONE_SCENE = (*MANY_STEPS, "--plan", "joint", "--anchor-level", "clean")  # the input is clean, as in training
GROUPS = {
    "denoiser": Group(
        SHIPPED / "ablation_denoiser.yaml",
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
        SHIPPED / "ablation_field.yaml",
        losses=("rgb", "depth"),
        method=NERF,
        models=(
            Ablation("everything"),
            Ablation("no depth supervision", {"loss.depth": "0"}),
            Ablation("no world coordinates", {"nerf.world_coordinates": "false"}),
        ),
    ),
    "baselines": Group(
        BASELINES / "unet.yaml",
        losses=(),
        method=JOINT,
        models=(
            Ablation("the frozen field", methods=(NERF,), trained=False),
            Ablation("pixelNeRF", config=BASELINES / "pixelnerf.yaml", methods=(NERF,)),
            Ablation("GeNVS", {}, AUTOREGRESSIVE, BASELINES / "genvs.yaml"),
            Ablation("GeNVS, multi-view", {}, MANY_STEPS, BASELINES / "multiview.yaml"),
            Ablation("GeNVS, multi-view, another seed", {"run.seed": "1"}, MANY_STEPS, BASELINES / "multiview.yaml"),
            Ablation("3DiM", {}, STOCHASTIC, BASELINES / "3dim.yaml"),
            Ablation("NerfDiff", {}, MANY_STEPS, BASELINES / "nerfdiff.yaml", (JOINT, DISTILLED)),
            Ablation("SyncDreamer", {}, ONE_SCENE, BASELINES / "syncdreamer.yaml"),
            Ablation("Viewset Diffusion", {}, ONE_SCENE, BASELINES / "viewset.yaml"),
            Ablation("SyncDreamer, with rendering", config=BASELINES / "syncdreamer_rendering.yaml"),
            Ablation("this, UNet", methods=(JOINT, DISTILLED)),
            Ablation("this, UNet, another seed", {"run.seed": "1"}),
            Ablation("this, transformer", config=BASELINES / "transformer.yaml"),
        ),
        metrics=("psnr", "ssim", "lpips-alex", "fd-effnet", "tsed", "warp-psnr"),
        measured=("fd", "consistency"),
        costs=True,
    ),
}
