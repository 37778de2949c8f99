"""Settings of the generators, a section for each that has any of its own."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from persrep_ray.config.section import Section

GeneratorName = Literal["cut_paste", "dreambooth", "folder"]

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
        default=None, min_length=1, max_length=128, description="the category of objects that have none"
    )
    method: Literal["lora", "full"] = Field(
        default="lora", description="train a LoRA on the attention layers, or all weights as the paper does"
    )
    rank: int = Field(default=16, ge=1, le=256, description="rank of the LoRA")
    alpha: float = Field(default=16.0, gt=0, description="alpha of the LoRA")
    train_text_encoder: bool = True
    resolution: int = Field(default=512, ge=16, le=2048, description="side of the training images, pixels")
    steps: int = Field(default=400, ge=1)
    learning_rate: Annotated[float, Field(gt=0)] | Literal["auto"] = Field(
        default="auto", description="auto: 1e-4 for a LoRA, 2e-6 for all weights"
    )
    batch_size: int = Field(default=1, ge=1, description="photos in a step, and as many class images")
    prior_images: int = Field(
        default=200,
        ge=0,
        description="class images per category, shared by its objects; 0 turns prior preservation off",
    )
    prior_weight: float = Field(default=1.0, ge=0)
    masked_loss: bool = Field(default=True, description="on photos, only the object's pixels count in the loss")
    min_snr_gamma: float | None = Field(
        default=None,
        gt=0,
        description="weights time steps by their signal-to-noise ratio (arXiv 2303.09556); 5 is usual",
    )
    precision: Literal["bfloat16", "float16", "float32"] = Field(
        default="bfloat16", description="on GPUs; CPUs compute in bfloat16 if they can, otherwise in float32"
    )
    gradient_checkpointing: bool = Field(default=False, description="takes less memory and more time")
    adam_8bit: bool = Field(default=False, description="used if bitsandbytes and a CUDA device are available")
    actors: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    cpus_per_actor: float = Field(default=0.25, gt=0)
    gpus_per_actor: Annotated[float, Field(ge=0)] | Literal["auto"] = Field(
        default="auto", description="auto: half a GPU if the cluster has any"
    )

    @field_validator("token")
    @classmethod
    def _token_is_one_word(cls, token: str) -> str:
        if not _TOKEN.fullmatch(token) or not token.isprintable():
            raise ValueError("one word of 1 to 32 printable characters without spaces and braces, such as <new1>")
        return token

    @property
    def effective_learning_rate(self) -> float:
        if self.learning_rate != "auto":
            return self.learning_rate
        return 1e-4 if self.method == "lora" else 2e-6


class SamplingConfig(Section):
    """How images are sampled from the text-to-image model."""

    steps: int = Field(default=50, ge=1, le=1000)
    guidance: tuple[Annotated[float, Field(ge=0, le=50)], ...] = Field(
        default=(4.0, 5.0, 7.5),
        min_length=1,
        strict=False,
        description="scales of classifier-free guidance; each image is sampled with one of them, drawn at random",
    )
    scheduler: Literal["base", "ddim", "dpm", "euler"] = Field(
        default="base", description="base: the scheduler that comes with the model"
    )
    size: Annotated[int, Field(ge=16, le=2048)] | None = Field(
        default=None, description="side of the sampled image, pixels; null: generate.dreambooth.resolution"
    )
    batch_size: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        default="auto", description="auto: chosen by the free memory; halved when memory runs out"
    )
    actors: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    cpus_per_actor: float = Field(default=0.25, gt=0)
    gpus_per_actor: Annotated[float, Field(ge=0)] | Literal["auto"] = Field(
        default="auto", description="auto: half a GPU if the cluster has any"
    )


class PromptConfig(Section):
    """The prompts that images are sampled with."""

    source: Literal["bank", "file", "llm"] = Field(
        default="bank",
        description="the scenes that come with the library, a JSON file, or a language model, which the environment "
        "variables PERSREP_LLM_URL, PERSREP_LLM_MODEL and PERSREP_LLM_API_KEY name",
    )
    file: str | None = Field(
        default=None,
        validate_default=True,
        description="for source=file: path or s3:// URI of a JSON file with a list of prompts for each object; each "
        "prompt contains the token",
    )
    kind: Literal["auto", "rigid", "animal", "clothes"] = Field(
        default="auto", description="which scenes of the bank are used; auto: chosen by the category"
    )
    count: int = Field(default=100, ge=1, le=1000, description="for source=llm: prompts per category")
    llm_timeout_s: float = Field(default=60.0, gt=0, description="limit for one request to the language model")
    llm_attempts: int = Field(default=3, ge=1, le=10, description="requests before the bank is used instead")

    @field_validator("file")
    @classmethod
    def _file_belongs_to_its_source(cls, file: str | None, info: ValidationInfo) -> str | None:
        source = info.data.get("source")  # None if it is invalid itself
        if source == "file" and not file:
            raise ValueError("the path of a JSON file, because generate.prompts.source is file")
        if source in ("bank", "llm") and file is not None:
            raise ValueError(f"null, because generate.prompts.source is {source}")
        return file


class FilterConfig(Section):
    """Sampled positives must look like the object: their masked crops are compared with those of the photos."""

    metric: Literal["backbone", "dreamsim"] = Field(
        default="backbone",
        description="what measures likeness: the CLS token of a backbone, or DreamSim if it is installed",
    )
    backbone: str | None = Field(
        default=None, min_length=1, description="'embedded', a hub id or a local folder; null: the run's backbone"
    )
    threshold: Annotated[float, Field(ge=0, le=1)] | None = Field(
        default=0.6,
        description="the least likeness that passes: 0 is how alike other objects are to the photos, 1 how alike the "
        "photos are to each other; null lets everything pass",
    )
    max_tries: int = Field(default=3, ge=1, le=20, description="how often an image is sampled before it is given up")


class FolderConfig(Section):
    """Synthetic images that the user already has."""

    path: str | None = Field(
        default=None,
        min_length=1,
        description="folder or s3:// URI with <object>/positive/ and <object>/negative/ or <category>/negative/; "
        "required by generator=folder",
    )


class GenerateConfig(Section):
    """Synthetic images per object, and how the work is cut into chunks for the actors."""

    generator: Literal[GeneratorName, "combined"] = Field(
        default="cut_paste", description="where synthetic images come from; combined: cut_paste and dreambooth"
    )
    dreambooth_share: float = Field(
        default=0.5,
        gt=0,
        lt=1,
        description="for combined: the share of positives and of negatives that DreamBooth makes",
    )
    positives: int = Field(default=64, ge=1, description="images of the object that it is trained on")
    negatives: int = Field(default=64, ge=1, description="images of other objects that it is trained on")
    calibration_images: int = Field(
        default=16,
        ge=0,
        description="further positives, and as many negatives, that calibrate serving; never trained on",
    )
    image_size: int = Field(default=256, ge=32, le=1024, description="side of a synthetic image, pixels")
    object_area: tuple[float, float] = Field(
        default=(0.06, 0.6),
        strict=False,  # YAML and JSON have lists but no tuples; the items stay strict
        description="share of the image that the pasted object's box covers, smallest to largest",
    )
    rotation: float = Field(
        default=30.0, ge=0, le=180, description="largest rotation of a pasted object in either direction, degrees"
    )
    occlusion: float = Field(
        default=0.25, ge=0, le=1, description="probability that something covers a part of the pasted object"
    )
    same_category: float = Field(
        default=0.7,
        ge=0,
        le=1,
        description="share of pasted negatives that show objects of the same category, if there are any",
    )
    negative_objects: int = Field(
        default=32,
        ge=0,
        description="how many other objects an object's negatives show; those of its category come first, and things "
        "of the bank join fewer than 16",
    )
    chunk_size: int = Field(default=16, ge=1, description="images per chunk, the unit of work and of resume")
    actors: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        default="auto", description="actors of cut_paste and of folder"
    )
    cpus_per_actor: float = Field(default=0.5, gt=0)
    folder: FolderConfig = FolderConfig()
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
