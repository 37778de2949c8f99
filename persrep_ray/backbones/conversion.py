"""`python -m persrep_ray.backbones.conversion PICKLE SAFETENSORS`: the one place where a pickle is read.

It runs in a process of its own, with limits, and PyTorch makes nothing but tensors of what it reads (`weights_only`).
"""

from __future__ import annotations

import pickle
import resource
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

_MOST_BYTES = 16 * 1024**3  # of the pickle
_CPU_S = 600


def convert(source: Path, target: Path) -> None:
    """Writes the tensors of `source` to `target`. Raises ValueError, whose message is one line, and OSError."""
    size = source.stat().st_size
    if size > _MOST_BYTES:
        raise ValueError(f"it has {size} bytes, more than {_MOST_BYTES}")
    try:
        tensors = torch.load(source, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError) as error:
        raise ValueError(f"not a file of tensors alone: {str(error).strip().splitlines()[0]}") from error
    if not isinstance(tensors, dict) or not all(isinstance(value, torch.Tensor) for value in tensors.values()):
        raise ValueError("it does not hold tensors by their names")
    # Clones, because safetensors refuses tensors that share memory.
    save_file(
        {str(name): value.detach().clone().contiguous() for name, value in tensors.items()}, target, {"format": "pt"}
    )


def main() -> int:
    source, target = (Path(argument) for argument in sys.argv[1:])
    resource.setrlimit(resource.RLIMIT_CPU, (_CPU_S, _CPU_S))
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 * _MOST_BYTES, 2 * _MOST_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        convert(source, target)
    except (ValueError, OSError) as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
