"""One rank of a two-rank training, in its own module because a spawned process has to import it."""

from __future__ import annotations

import os
from typing import Any

import torch
import torch.distributed
from helpers.tiny import tiny_backbone

from persrep_ray.backbones.lora import LoraBackbone
from persrep_ray.config import RunConfig
from persrep_ray.train.batches import TrainInputs
from persrep_ray.train.trainer import Trainer


def train_rank(rank: int, port: int, config: dict[str, Any], inputs: TrainInputs, out: str) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    run = RunConfig.model_validate(config)
    lora = LoraBackbone(tiny_backbone(), run.train.lora, base_name="tiny")
    trained = Trainer(lora, run, rank=rank, world_size=2).train(inputs, lambda done, total: None)
    torch.save((trained.history, trained.state), f"{out}/{rank}.pt")
    torch.distributed.destroy_process_group()
