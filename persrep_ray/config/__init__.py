"""Every setting: of a run, of its generators, of an endpoint. Parsed in one way, validated once, with clear errors."""

from persrep_ray.config.generate import (
    DreamBoothConfig,
    FilterConfig,
    FolderConfig,
    GenerateConfig,
    GeneratorName,
    PromptConfig,
    SamplingConfig,
)
from persrep_ray.config.run import (
    PRESETS,
    BackboneConfig,
    BatchConfig,
    CrossValidationConfig,
    DataConfig,
    EvaluateConfig,
    LoraSection,
    MaskConfig,
    RunConfig,
    SamConfig,
    TrainConfig,
    ViewsConfig,
    load_config,
)
from persrep_ray.config.section import ConfigError, Section
from persrep_ray.config.serve import EncoderConfig, HttpConfig, IdentifyConfig, ServeConfig, load_serve_config

__all__ = [
    "PRESETS",
    "BackboneConfig",
    "BatchConfig",
    "ConfigError",
    "CrossValidationConfig",
    "DataConfig",
    "DreamBoothConfig",
    "EncoderConfig",
    "EvaluateConfig",
    "FilterConfig",
    "FolderConfig",
    "GenerateConfig",
    "GeneratorName",
    "HttpConfig",
    "IdentifyConfig",
    "LoraSection",
    "MaskConfig",
    "PromptConfig",
    "RunConfig",
    "SamConfig",
    "SamplingConfig",
    "Section",
    "ServeConfig",
    "TrainConfig",
    "ViewsConfig",
    "load_config",
    "load_serve_config",
]
