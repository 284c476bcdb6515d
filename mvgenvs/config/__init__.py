"""Configuration: nested frozen dataclasses with defaults in code and a help string under each field.

A YAML file holds only what differs from the defaults; `--section.field VALUE` on the command line overrides both.
"""

from mvgenvs.config.files import SHIPPED, ConfigLoader, build, fields_help, load_config, read_yaml, to_dict
from mvgenvs.config.model import CodecConfig, DenoiserConfig, ModelConfig, NerfConfig
from mvgenvs.config.training import DataConfig, LossConfig, OptimConfig, RefineConfig, RunConfig, TrainConfig

__all__ = [
    "SHIPPED", "CodecConfig", "ConfigLoader", "DataConfig", "DenoiserConfig", "LossConfig", "ModelConfig", "NerfConfig",
    "OptimConfig", "RefineConfig", "RunConfig", "TrainConfig", "build", "fields_help", "load_config", "read_yaml",
    "to_dict",
]  # fmt: skip
