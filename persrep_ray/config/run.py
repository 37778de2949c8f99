"""The configuration of a run: one tree, one section per stage, validated once.

`RunConfig()` is the fast default for the embedded backbone on CPUs. A YAML file and then `key=value` overrides are
applied to a preset. Unknown keys and values out of range raise `ConfigError`, which names the key and what is allowed.
Types are strict: `1.5` and `true` are not integers, though an integer is a number.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from persrep_ray.config import text
from persrep_ray.config.generate import DreamBoothConfig, FilterConfig, GenerateConfig, SamplingConfig
from persrep_ray.config.section import ConfigError, Section, changed, parse_overrides, validated


class DataConfig(Section):
    """Limits on the files that are read; inputs are treated as hostile."""

    max_pixels: int = Field(
        default=52_000_000,
        gt=0,
        description="pixels that are decoded at a time; a larger JPEG is decoded at a half, a quarter or an eighth of "
        "its size, and any other larger image is reported and skipped",
    )
    max_bytes: int = Field(default=64 * 1024 * 1024, gt=0, description="a larger file is reported and skipped")
    photos_per_object: int = Field(
        default=32, ge=1, description="train photos of an object that are used; of more, an even draw"
    )


class BackboneConfig(Section):
    """Which ViT, and how much of it is adapted."""

    name: str = Field(
        default="embedded", min_length=1, description="'embedded', a hub id, a local folder or an s3:// prefix"
    )
    revision: str | None = None
    adapted_blocks: Annotated[int, Field(ge=1)] | Literal["all"] = Field(
        default=4, description="K: LoRA sits on the last K blocks; the blocks before them are frozen and computed once"
    )
    image_size: int = Field(default=224, ge=14, le=2048, description="side of the square input, pixels")
    precision: Literal["bfloat16", "float32"] = Field(
        default="bfloat16", description="CPUs without instructions for bfloat16 compute in float32 in either case"
    )


class SamConfig(Section):
    """Segment Anything, steered by a map of where the object is (PerSAM, arXiv 2305.03048)."""

    name: str = Field(default="facebook/sam-vit-base", min_length=1, description="a hub id or a local folder")
    revision: str | None = None
    weight_steps: int = Field(
        default=1000,
        ge=0,
        description="training steps that learn how to mix SAM's three mask scales; with 0, SAM's best mask is taken",
    )


class MaskConfig(Section):
    """Foreground masks for photos that come without a mask."""

    method: Literal["embedded", "sam"] = Field(
        default="embedded", description="saliency refined by GrabCut, or Segment Anything prompted by the saliency"
    )
    sam: SamConfig = SamConfig()
    working_size: int = Field(
        default=448, ge=64, le=2048, description="longest side of the image that GrabCut works on, pixels"
    )
    grabcut_iterations: int = Field(default=4, ge=1, le=20)
    cpus_per_actor: float = Field(default=0.5, gt=0)


class LoraSection(Section):
    """LoRA on the attention's query, key and value of the adapted blocks (Hu et al., arXiv 2106.09685)."""

    r: int = Field(default=16, ge=1, le=256)
    alpha: float = Field(default=16.0, gt=0)
    dropout: float = Field(default=0.0, ge=0, lt=1)


class ViewsConfig(Section):
    """Augmented views. Each view costs a pass through the frozen prefix and can be drawn many times."""

    per_photo: int = Field(default=4, ge=1, description="augmented views per photo, in addition to its standard view")
    smallest_crop: float = Field(default=0.4, gt=0, le=1, description="smallest share of a photo that a view shows")
    rotation: float = Field(default=10.0, ge=0, le=180, description="largest rotation in either direction, degrees")
    light: float = Field(default=0.3, ge=0, lt=1, description="largest relative change of brightness")
    cached_photos: int = Field(default=256, ge=1, description="how many photos' views a worker keeps for later objects")


class BatchConfig(Section):
    """The images of a training step, over all ranks."""

    anchors: int = Field(default=4, ge=1, description="views of the object's real photos")
    positives: int = Field(default=8, ge=1, description="synthetic images of the object")
    negatives: int = Field(default=16, ge=1, description="synthetic and real images of other objects")
    synthetic_negatives: float = Field(default=0.5, ge=0, le=1, description="share of the negatives that are synthetic")
    token_share: float = Field(
        default=0.5,
        gt=0,
        le=1,
        description="share of an image's patch tokens that a step sees, drawn for each step",
    )


class CrossValidationConfig(Section):
    """First, do no harm: photos that short trainings did not see decide how strongly the adapter acts."""

    folds: int = Field(
        default=2,
        ge=0,
        description="how many photos are held out in turn; with 0, the strength is 1 and is not checked",
    )
    strengths: tuple[Annotated[float, Field(ge=0, le=2)], ...] = Field(
        default=(0.0, 0.35, 0.7, 1.0),
        min_length=1,
        strict=False,
        description="candidate strengths; 0 keeps the pretrained features",
    )


class TrainConfig(Section):
    """Contrastive LoRA training of one object, and how many objects train at a time."""

    lora: LoraSection = LoraSection()
    views: ViewsConfig = ViewsConfig()
    batch: BatchConfig = BatchConfig()
    cross_validation: CrossValidationConfig = CrossValidationConfig()
    loss: Literal["info_nce", "info_nce_multi_positive", "hinge"] = "info_nce_multi_positive"
    temperature: float = Field(default=0.07, gt=0, description="temperature of the InfoNCE losses")
    margin: float = Field(default=0.5, ge=0, description="margin of the hinge loss")
    symmetric: bool = Field(
        default=True, description="whether positives also serve as anchors, against the same negatives"
    )
    embedding: Literal["cls", "cls_and_patches"] = Field(
        default="cls", description="what the loss compares: CLS, or CLS concatenated with the mean patch"
    )
    steps: int = Field(default=32, ge=1)
    learning_rate: float = Field(default=6e-4, gt=0)
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = Field(
        default=(0.9, 0.999), strict=False
    )
    weight_decay: float = Field(default=0.0, ge=0)
    cells: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    workers_per_object: int = Field(default=1, ge=1)
    cpus_per_worker: float = Field(default=0.5, gt=0)
    gpus_per_worker: float = Field(default=0.0, ge=0)
    max_attempts: int = Field(default=3, ge=1, description="how often an object is tried before it fails")

    @field_validator("gpus_per_worker")
    @classmethod
    def _ranks_do_not_share_a_gpu(cls, gpus: float, info: ValidationInfo) -> float:
        if 0 < gpus < 1 and info.data.get("workers_per_object", 1) > 1:
            raise ValueError("0 or at least 1, because NCCL cannot have two of an object's workers on one GPU")
        return gpus

    @property
    def images_per_object(self) -> int:
        """How many images the training of an object sees, including the folds of the cross-validation."""
        per_step = self.batch.anchors + self.batch.positives + self.batch.negatives
        return per_step * self.steps * (1 + self.cross_validation.folds)

    @field_validator("workers_per_object")
    @classmethod
    def _ranks_share_a_batch_evenly(cls, workers: int, info: ValidationInfo) -> int:
        batch = info.data.get("batch")
        if batch and any(count % workers for count in (batch.anchors, batch.positives, batch.negatives)):
            raise ValueError(
                f"a divisor of the batch of {batch.anchors} anchors, {batch.positives} positives and "
                f"{batch.negatives} negatives"
            )
        return workers


class EvaluateConfig(Section):
    """The four tasks, pretrained and personalized."""

    mode: Literal["discriminant", "threshold", "persam"] = Field(
        default="discriminant",
        description="how the dense tasks find the object: by its discriminant; or, as in the paper, by Otsu's "
        "threshold on the similarities, or SAM (`masks.sam`) prompted by them",
    )
    dense_size: int = Field(default=336, ge=14, le=2048, description="side of the dense tasks' input, pixels")
    batch_size: int = Field(default=16, ge=1)
    most_photos: int = Field(
        default=2000, ge=0, description="an object is evaluated against at most this many photos of other objects"
    )
    actors: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    cpus_per_actor: float = Field(default=0.5, gt=0)


class RunConfig(Section):
    """Everything that decides a run's result. It is recorded in `summary.json` and in every adapter's card."""

    seed: int = Field(default=0, ge=0, lt=2**31)
    data: DataConfig = DataConfig()
    backbone: BackboneConfig = BackboneConfig()
    masks: MaskConfig = MaskConfig()
    generate: GenerateConfig = GenerateConfig()
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()

    def to_dict(self) -> dict[str, Any]:
        """The whole tree as plain JSON values, from which `RunConfig.model_validate` makes an equal config."""
        return self.model_dump(mode="json")


def debug_config() -> RunConfig:
    """Ten steps on a handful of tiny images, to see whether everything runs. Meant for a tiny ViT in a local folder."""
    return RunConfig(
        backbone=BackboneConfig(adapted_blocks=1, image_size=56, precision="float32"),
        masks=MaskConfig(working_size=64, grabcut_iterations=1),
        generate=GenerateConfig(
            positives=4,
            negatives=4,
            calibration_images=2,
            image_size=64,
            chunk_size=2,
            actors=1,
            dreambooth=DreamBoothConfig(
                rank=2, alpha=2.0, resolution=64, steps=10, prior_images=4, precision="float32", actors=1
            ),
            sampling=SamplingConfig(steps=2, guidance=(4.0,), actors=1),
            filter=FilterConfig(threshold=None),
        ),
        train=TrainConfig(
            lora=LoraSection(r=2, alpha=2.0), batch=BatchConfig(anchors=2, positives=2, negatives=4), steps=10, cells=1
        ),
        evaluate=EvaluateConfig(dense_size=56, batch_size=4, actors=1),
    )


def paper_config() -> RunConfig:
    """The training recipe of Sundaram, Chae et al. (arXiv 2412.16156), with our default backbone and generator.

    The paper's backbone is `backbone.name=facebook/dinov2-base`. Its generators are `generate.generator=dreambooth`,
    which this preset sets up as in the paper, and `combined`. Its 450 images are positives; we chose as many negatives.
    """
    synthetic, triplets, epochs, batch = 450, 4500, 2, 16
    return RunConfig(
        backbone=BackboneConfig(adapted_blocks="all"),
        generate=GenerateConfig(
            positives=synthetic,
            negatives=synthetic,
            dreambooth=DreamBoothConfig(method="full", learning_rate=2e-6, steps=400, prior_images=200),
        ),
        train=TrainConfig(
            lora=LoraSection(r=16, alpha=0.5, dropout=0.3),
            loss="info_nce",
            temperature=0.07,
            steps=math.ceil(triplets * epochs / batch),
            batch=BatchConfig(anchors=batch, positives=batch, negatives=batch, token_share=1.0),
            cross_validation=CrossValidationConfig(folds=0),
            symmetric=False,
            embedding="cls_and_patches",
            learning_rate=3e-4,
            betas=(0.5, 0.999),
        ),
    )


PRESETS: dict[str, Callable[[], RunConfig]] = {"default": RunConfig, "paper": paper_config, "debug": debug_config}


def load_config(source: str | Path | None = None, overrides: Iterable[str] = ()) -> RunConfig:
    """Loads a preset or a YAML file and applies `key=value` overrides; later overrides win.

    Args:
        source: the name of a preset, or a YAML file of sections, which may name the preset that it starts from
            (`preset: paper`); None means the preset `default`.
        overrides: texts such as `train.steps=50`; values are read as YAML, and a mapping is merged into its section.

    Raises:
        ConfigError: the message is one line with the file and line or the key, the value, and what is allowed.
    """
    try:
        config = _from_source(source)
    except text.TextError as error:
        raise ConfigError(str(error)) from error
    return changed(config, parse_overrides(overrides), where="")


def _from_source(source: str | Path | None) -> RunConfig:
    if source is None:
        return RunConfig()
    if isinstance(source, str) and source in PRESETS:
        return PRESETS[source]()
    path = Path(source)
    if not path.exists():
        hint = text.did_you_mean(str(source), PRESETS)
        raise ConfigError(f"config '{source}' is neither a preset nor a file{hint} Presets: {', '.join(PRESETS)}")
    sections = text.read_mapping(path)
    preset = sections.pop("preset", "default")
    if not isinstance(preset, str) or preset not in PRESETS:
        hint = text.did_you_mean(str(preset), PRESETS)
        raise ConfigError(f"{path}: unknown preset {preset!r}{hint} Presets: {', '.join(PRESETS)}")
    return changed(PRESETS[preset](), sections, where=f"{path}: ")


def recorded_config(values: Mapping[str, Any], where: str) -> RunConfig:
    """The configuration that a card or a run recorded, perhaps with the key names of an earlier version.

    Raises `ConfigError`, whose message is one line that begins with `where`.
    """
    values = dict(values)
    for old, new in text.RENAMED.items():
        section, key = old.split(".")
        if isinstance(values.get(section), Mapping) and key in values[section]:
            renamed = {new.partition(".")[2] if name == key else name: value for name, value in values[section].items()}
            values[section] = renamed
    return validated(RunConfig, values, where)
