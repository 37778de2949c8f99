"""A SAM that is small enough for tests. Its masks mean nothing but depend on the image and on every prompt."""

from __future__ import annotations

from pathlib import Path

import torch
import transformers

SIDE = 64


def tiny_sam() -> transformers.SamModel:
    """A model for 64 px with an embedding of 8 x 8 cells and logits of 32 x 32."""
    torch.manual_seed(0)
    config = transformers.SamConfig(
        vision_config=transformers.SamVisionConfig(
            hidden_size=32,
            output_channels=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=SIDE,
            patch_size=8,
            window_size=2,
            global_attn_indexes=[1],
            num_pos_feats=16,
            mlp_dim=32,
        ),
        prompt_encoder_config=transformers.SamPromptEncoderConfig(
            hidden_size=32, image_size=SIDE, patch_size=8, mask_input_channels=8
        ),
        mask_decoder_config=transformers.SamMaskDecoderConfig(
            hidden_size=32, mlp_dim=32, num_attention_heads=2, iou_head_hidden_dim=32
        ),
    )
    model = transformers.SamModel(config)
    with torch.no_grad():  # the initial weights hardly depend on the input
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.2)
    return model


def save_tiny_sam(folder: Path) -> Path:
    """Saves the model and a preprocessor as a checkpoint in the new `folder`, and returns the folder."""
    tiny_sam().save_pretrained(folder)
    square = {"height": SIDE, "width": SIDE}
    transformers.SamImageProcessorPil(
        size={"longest_edge": SIDE}, pad_size=square, image_mean=[0.4, 0.5, 0.6], image_std=[0.3, 0.2, 0.1]
    ).save_pretrained(folder)
    return folder
