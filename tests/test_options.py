"""Sampling options stand in one place: flags, keywords and records follow from it, and nothing heavy is imported."""

import argparse
import dataclasses
import inspect
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mvgenvs.cli import OneSentenceParser
from mvgenvs.diffusion import options, plans, renoising
from mvgenvs.diffusion.flags import add_flags, take_flags, takes_sampling_options
from mvgenvs.diffusion.options import SamplingOptions
from mvgenvs.errors import UserError
from mvgenvs.field_texts import field_texts
from mvgenvs.infer_options import parse_arguments

NAMES = [each.name for each in dataclasses.fields(SamplingOptions)]


def test_every_option_has_a_text():
    texts = field_texts(SamplingOptions)
    assert list(texts) == NAMES
    assert all(texts.values())


def test_without_the_source_texts_are_empty(monkeypatch):
    monkeypatch.setattr(options, "__file__", "somewhere.zip/options.py")
    assert field_texts.__wrapped__(SamplingOptions) == dict.fromkeys(NAMES, "")


def test_names_are_those_of_what_there_is():
    assert set(options.PLANS) == set(plans.PLANS)
    assert set(options.SAMPLERS) == set(renoising.SAMPLERS)


def test_flags_without_a_choice_give_the_defaults():
    arguments = parse_arguments(["--image", "x.png"])
    assert take_flags(arguments) == SamplingOptions()
    assert not {*NAMES, "steps", "guidance"} & set(vars(arguments))


def test_flags_are_read_into_options():
    words = "--image x --plan keyframes --block 3 --anchors 0 --close-loop --resample 0.1 --renoise fixed"
    words += " --anchor-level clean --sampler heun --steps 7 --churn 2.5 --start render --sigma-max 0.5"
    words += " --temperature 0.7 --guidance 3"
    expected = {
        "plan": "keyframes", "block": 3, "anchors": 0, "close_loop": True, "resample": 0.1, "renoise": "fixed",
        "anchor_level": "clean", "sampler": "heun", "num_inference_steps": 7, "churn": 2.5, "start": "render",
        "sigma_max": 0.5, "temperature": 0.7, "rho": None, "guidance_scale": 3.0, "joint": True, "unconditional": False,
    }  # fmt: skip
    found = take_flags(parse_arguments(words.split()))
    assert found.keywords() == expected
    record = found.record()
    assert (record["steps"], record["guidance"]) == (7, 3.0)
    assert set(record) == set(NAMES) - {"num_inference_steps", "guidance_scale"} | {"steps", "guidance"}


def test_the_temperature_of_a_checkpoint_is_that_of_its_own_start():
    checkpoint = {
        "default_steps": 1, "default_guidance": 1.0, "default_render_sigma": 0.3, "default_temperature": 0.5
    }  # fmt: skip
    levels = {"sigma_max": 8.0, "rho": 7.0}

    def resolved(has_known=True, **chosen):
        found = SamplingOptions(**chosen).resolved(checkpoint, levels, has_known)
        return found.start, found.sigma_max, found.start_temperature

    assert resolved() == ("render", 0.3, 0.5)
    assert resolved(temperature=0.8) == ("render", 0.3, 0.8)
    assert resolved(start="render", sigma_max=1.0) == ("render", 1.0, 1.0)
    assert resolved(start="noise") == resolved(has_known=False) == ("noise", 8.0, 1.0)
    assert resolved(start="noise", temperature=0.0) == ("noise", 8.0, 0.0)


def test_some_flags_with_texts_and_defaults_of_ones_own(capsys):
    parser = OneSentenceParser()
    chosen = {"names": ("block", "sampler", "rho"), "texts": {"block": "new views"}, "defaults": {"block": 9}}
    add_flags(parser.add_argument, **chosen)
    arguments = parser.parse_args([])
    assert vars(arguments) == {"block": 9, "sampler": "euler"}, "rho has no flag"
    assert take_flags(arguments) == SamplingOptions(block=9)
    assert arguments == argparse.Namespace()
    with pytest.raises(SystemExit):
        parser.parse_args(["--help"])
    assert "new views (default: 9)" in capsys.readouterr().out
    with pytest.raises(UserError, match="--sampler: there is no sampler 'foo': choose one of euler, heun"):
        parser.parse_args(["--sampler", "foo"])


def test_help_imports_nothing_heavy():
    script = (
        "import runpy, sys\nsys.argv = ['infer_multiview.py', '--help']\n"
        "try: runpy.run_path('infer_multiview.py', run_name='__main__')\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'diffusers', 'yaml', 'PIL'} & set(sys.modules)\nassert not heavy, heavy\n"
    )
    root = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


WRONG = [
    ({"plan": "zigzag"}, "no plan 'zigzag': choose one of joint, sliding"),
    ({"block": 0}, "block must be a whole number of at least 1, but is 0"),
    ({"block": True}, "block must be a whole number of at least 1, but is True"),
    ({"anchors": -1}, "anchors must be a whole number of at least 0"),
    ({"renoise": "never"}, "no renoise 'never': choose one of fresh, fixed"),
    ({"anchor_level": "dirty"}, "no anchor_level 'dirty': choose one of matched, clean"),
    ({"anchor_level": 0.0}, "no anchor_level '0.0': choose matched, clean or a level above 0"),
    ({"anchor_level": math.nan}, "no anchor_level 'nan'"),
    ({"anchor_level": ("clean", -1.0)}, "no anchor_level '-1.0'"),
    ({"sampler": "ddim"}, "no sampler 'ddim': choose one of euler, heun, dpmpp-2m"),
    ({"num_inference_steps": 0}, "num_inference_steps must be a whole number of at least 1"),
    ({"churn": -1.0}, "churn must be a number of at least 0"),
    ({"churn": math.inf}, "churn must be a number of at least 0, but is inf"),
    ({"start": "zeros"}, "no start 'zeros': choose one of noise, render"),
    ({"rho": 0.0}, "rho must be above 0"),
    ({"rho": math.nan}, "rho must be a number of at least 0, but is nan"),
    ({"rho": math.inf}, "rho must be a number of at least 0, but is inf"),
    ({"guidance_scale": math.nan}, "guidance_scale must be a number of at least 0, but is nan"),
    ({"guidance_scale": -1.0}, "guidance_scale must be a number of at least 0, but is -1.0"),
    ({"sampler": "dpmpp-2m", "churn": 1.0}, "dpmpp-2m is a multistep sampler and takes no churn"),
]


@pytest.mark.parametrize(("wrong", "sentence"), WRONG, ids=str)
def test_what_is_out_of_range_or_does_not_go_together_is_refused(wrong, sentence):
    with pytest.raises(UserError, match=re.escape(sentence)):
        SamplingOptions(**wrong)


def test_an_unknown_option_names_the_nearest():
    with pytest.raises(UserError, match=r"no sampling option 'guidance': did you mean 'guidance_scale'\?"):
        SamplingOptions.of(guidance=2.0)
    assert SamplingOptions.of(block=2) == SamplingOptions(block=2)


def test_a_method_says_which_options_it_takes():
    @takes_sampling_options
    def method(images, block=None, **options):
        """Makes views."""

    parameters = inspect.signature(method).parameters
    assert list(parameters) == ["images", "block", *(name for name in NAMES if name != "block")]
    assert parameters["churn"].default == 0.0
    assert method.__doc__.startswith("Makes views.\n")
    assert "    sampler: solver of the diffusion ODE" in method.__doc__
