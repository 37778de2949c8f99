"""Settings of the generators: cut-and-paste, DreamBooth, their prompts, sampling and filter."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from persrep_ray.config.section import Section

_TOKEN = re.compile(r"[^\s{}]{1,32}")


class DreamBoothConfig(Section):
    """A text-to-image model fine-tuned to each object (Ruiz et al., arXiv 2208.12242)."""

    base: str = Field(
        default="stable-diffusion-v1-5/stable-diffusion-v1-5",
        min_length=1,
        description="hub id or local folder of a diffusers pipeline: Stable Diffusion 1, 2, XL or 3, or Flux",
    )
    revision: str | None = None
    token: str = Field(default="<new1>", description="the word that stands for the object in prompts")
    category: str | None = Field(
        default=None, min_length=1, max_length=128, description="what objects are that come without a category"
    )
    method: Literal["lora", "full"] = Field(
        default="lora", description="a LoRA on the attention layers, or all weights as in the paper"
    )
    rank: int = Field(default=16, ge=1, le=256, description="of the LoRA")
    alpha: float = Field(default=16.0, gt=0, description="of the LoRA")
    train_text_encoder: bool = True
    resolution: int = Field(default=512, ge=16, le=2048, description="side of the training images, pixels")
    steps: int = Field(default=400, ge=1)
    learning_rate: Annotated[float, Field(gt=0)] | Literal["auto"] = Field(
        default="auto", description="auto: 1e-4 for a LoRA, 2e-6 for all weights"
    )
    batch_size: int = Field(default=1, ge=1, description="photos of a step, and as many class images")
    prior_images: int = Field(
        default=200, ge=0, description="class images per category, shared by its objects; 0: no prior preservation"
    )
    prior_weight: float = Field(default=1.0, ge=0)
    masked_loss: bool = Field(default=True, description="the loss on photos counts the object's pixels alone")
    min_snr_gamma: float | None = Field(
        default=None, gt=0, description="weights time steps by their signal-to-noise ratio (arXiv 2303.09556), say 5"
    )
    precision: Literal["bfloat16", "float16", "float32"] = Field(
        default="bfloat16", description="of GPUs; CPUs compute in bfloat16 where they can, else in float32"
    )
    gradient_checkpointing: bool = Field(default=False, description="less memory, slower")
    adam_8bit: bool = Field(default=False, description="where bitsandbytes and a CUDA device are there")
    actors: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    cpus_per_actor: float = Field(default=0.25, gt=0)
    gpus_per_actor: Annotated[float, Field(ge=0)] | Literal["auto"] = Field(
        default="auto", description="auto: half a GPU where the cluster has any"
    )

    @field_validator("token")
    @classmethod
    def _token_is_one_word(cls, token: str) -> str:
        if not _TOKEN.fullmatch(token) or not token.isprintable():
            raise ValueError("one word of 1 to 32 printable characters without blanks and braces, such as <new1>")
        return token

    @property
    def effective_learning_rate(self) -> float:
        if self.learning_rate != "auto":
            return self.learning_rate
        return 1e-4 if self.method == "lora" else 2e-6


class SamplingConfig(Section):
    """How images are drawn from the text-to-image model."""

    steps: int = Field(default=50, ge=1, le=1000)
    guidance: tuple[Annotated[float, Field(ge=0, le=50)], ...] = Field(
        default=(4.0, 5.0, 7.5),
        min_length=1,
        strict=False,
        description="scales of classifier-free guidance, one drawn for each image",
    )
    scheduler: Literal["base", "ddim", "dpm", "euler"] = Field(
        default="base", description="base: the one that comes with the model"
    )
    size: Annotated[int, Field(ge=16, le=2048)] | None = Field(
        default=None, description="side of the sampled image, pixels; null: generate.dreambooth.resolution"
    )
    batch_size: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        default="auto", description="auto: from the free memory; either is halved when memory runs out"
    )
    actors: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    cpus_per_actor: float = Field(default=0.25, gt=0)
    gpus_per_actor: Annotated[float, Field(ge=0)] | Literal["auto"] = Field(
        default="auto", description="auto: half a GPU where the cluster has any"
    )


class PromptConfig(Section):
    """Where the scenes of sampled images come from."""

    source: Literal["bank", "file", "llm"] = Field(
        default="bank",
        description="scenes that come with the library, a JSON file, or those of a language model, which the variables "
        "PERSREP_LLM_URL, PERSREP_LLM_MODEL and PERSREP_LLM_API_KEY name",
    )
    file: str | None = Field(
        default=None,
        validate_default=True,
        description="source file: JSON, for each object a list of prompts that hold the token",
    )
    kind: Literal["auto", "rigid", "animal", "clothes"] = Field(
        default="auto", description="which scenes of the bank fit; auto: by the category"
    )
    count: int = Field(default=100, ge=1, le=1000, description="source llm: prompts for each category")
    llm_timeout_s: float = Field(default=60.0, gt=0, description="of one request to the language model")
    llm_attempts: int = Field(default=3, ge=1, le=10, description="requests until the bank takes its place")

    @field_validator("file")
    @classmethod
    def _file_where_it_is_the_source(cls, file: str | None, info: ValidationInfo) -> str | None:
        source = info.data.get("source")  # None: it is wrong itself
        if source == "file" and not file:
            raise ValueError("the path of a JSON file, since generate.prompts.source is file")
        if source in ("bank", "llm") and file is not None:
            raise ValueError(f"null, since generate.prompts.source is {source}")
        return file


class FilterConfig(Section):
    """Sampled positives must look like the object: their masked crop is compared with the photos' masked crops."""

    metric: Literal["backbone", "dreamsim"] = Field(
        default="backbone", description="what compares: CLS of a backbone, or DreamSim, where it is installed"
    )
    backbone: str | None = Field(
        default=None, min_length=1, description="'embedded', a hub id or a local folder; null: the run's backbone"
    )
    threshold: Annotated[float, Field(ge=0, le=1)] | None = Field(
        default=0.6,
        description="least likeness: 0 is that of other objects to the photos, 1 that of the photos to each other; "
        "null lets everything pass",
    )
    max_tries: int = Field(default=3, ge=1, le=20, description="images sampled at most for each one wanted")


class GenerateConfig(Section):
    """Synthetic images per object, and how the work is cut into chunks for the actors."""

    generator: Literal["cut_paste", "dreambooth", "combined"] = "cut_paste"
    dreambooth_share: float = Field(
        default=0.5, gt=0, lt=1, description="combined: share of the images of either role that DreamBooth makes"
    )
    positives: int = Field(default=64, ge=1)
    negatives: int = Field(default=64, ge=1)
    calibration_images: int = Field(
        default=16, ge=0, description="more images of either role, which training does not see: they calibrate serving"
    )
    image_size: int = Field(default=256, ge=32, le=1024, description="side of a synthetic image, pixels")
    object_area: tuple[float, float] = Field(
        default=(0.06, 0.6),
        strict=False,  # YAML and JSON have lists, no tuples; the items stay strict
        description="share of the picture that the pasted object's box covers, smallest to largest",
    )
    rotation: float = Field(default=30.0, ge=0, le=180, description="largest rotation either way, degrees")
    occlusion: float = Field(default=0.25, ge=0, le=1, description="probability of an occluder over the object")
    same_category: float = Field(
        default=0.7, ge=0, le=1, description="share of the negatives drawn from objects of the same category, if any"
    )
    negative_objects: int = Field(
        default=32, ge=0, description="how many other objects an object's negatives come from, same category first"
    )
    chunk_size: int = Field(default=16, ge=1, description="images per chunk: the unit of work and of resume")
    actors: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    cpus_per_actor: float = Field(default=0.5, gt=0)
    dreambooth: DreamBoothConfig = DreamBoothConfig()
    sampling: SamplingConfig = SamplingConfig()
    prompts: PromptConfig = PromptConfig()
    filter: FilterConfig = FilterConfig()

    @field_validator("object_area")
    @classmethod
    def _area_is_a_range(cls, area: tuple[float, float]) -> tuple[float, float]:
        if not 0 < area[0] <= area[1] <= 1:
            raise ValueError("two numbers with 0 < smallest <= largest <= 1")
        return area
