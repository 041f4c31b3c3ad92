"""Starts processes and DeepSpeed: ZeRO, NCCL on GPUs and gloo on CPUs; no network, quiet.

DeepSpeed is imported here alone and only when an engine is started: it picks its accelerator at
import.
"""

from __future__ import annotations

import atexit
import contextlib
import io
import logging
import os
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn

from shared.errors import InputError
from shared.gpus import unused_gpu, why_no_gpu
from train.clips.sampler import BatchPlan

Model = TypeVar("Model", bound=nn.Module)

LAUNCHER_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Processes:
    """This process among those that train together.

    Attributes:
        rank: of this process, 0 is the one that writes.
        world_size: how many there are.
        device: where this one computes.
    """

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    @property
    def uses_cuda(self) -> bool:
        return self.device.type == "cuda"

    def say(self, line: str) -> None:
        """Print a line once, not once a process."""
        if self.is_first:
            print(line, flush=True)

    def wait(self) -> None:
        """Until all processes have come here."""
        if self.world_size > 1:
            dist.barrier()

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """The mean over all processes, the same everywhere."""
        if self.world_size > 1:
            dist.all_reduce(values)
            values = values / self.world_size
        return values

    def from_first(self, value: Any) -> Any:
        """What the first process says."""
        if self.world_size > 1:
            box = [value]
            dist.broadcast_object_list(box, src=0, device=self.device)
            value = box[0]
        return value

    def gather(self, value: Any) -> list[Any]:
        """What every process says, by rank."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values


def start_processes(device: str) -> Processes:
    """Join the processes that a launcher started, or be the only one.

    Args:
        device: "auto" (a GPU if there is one), "cpu" or "cuda".

    Raises:
        InputError: a GPU is asked for and there is none, or the launcher set only some variables.
    """
    kind = device
    if device == "auto":
        kind = "cuda" if torch.cuda.is_available() else "cpu"
        if kind == "cpu" and (line := unused_gpu(torch.cuda)):
            print(line, file=sys.stderr)
    if kind == "cuda" and (reason := why_no_gpu(torch.cuda)):
        raise InputError(f"--device cuda: no GPU can be used here: {reason}; give --device cpu")
    with _launched():
        rank, world_size, local_rank = (int(os.environ[name]) for name in LAUNCHER_VARIABLES[:3])
        if kind == "cuda":
            if local_rank >= torch.cuda.device_count():
                raise InputError(
                    f"process {local_rank} of this machine has no GPU: there are "
                    f"{torch.cuda.device_count()}; start that many processes"
                )
            torch.cuda.set_device(local_rank)
        deepspeed = import_deepspeed(kind)
        if not dist.is_initialized():
            deepspeed.init_distributed("nccl" if kind == "cuda" else "gloo", verbose=False)
            atexit.register(dist.destroy_process_group)
    here = torch.device(kind, local_rank) if kind == "cuda" else torch.device(kind)
    return Processes(rank, world_size, here)


def wants_bf16(precision: str, uses_cuda: bool) -> bool:
    """What loader.precision means here: bf16, fp32, or bf16 on a GPU."""
    return precision == "bf16" or (precision == "auto" and uses_cuda)


def deepspeed_config(
    plan: BatchPlan, repeats: int, gradient_clipping: float, bf16: bool, zero_stage: int = 1
) -> dict[str, Any]:
    """What DeepSpeed is told; sizes count views, of which each clip has `repeats`.

    Raises:
        InputError: stage 0 with bf16, which would add up gradients in bf16.
    """
    if bf16 and zero_stage == 0:
        raise InputError(
            "loader.zero_stage is 0; in bf16, which GPUs train in, 1 or 2 is allowed; give one of "
            "them, or --set loader.precision=fp32"
        )
    return {
        "train_batch_size": plan.batch_size * repeats,
        "train_micro_batch_size_per_gpu": plan.micro_size * repeats,
        "gradient_accumulation_steps": plan.accumulation,
        # Stated always: DeepSpeed's own default has changed from 0 to 1.
        "gradient_clipping": gradient_clipping,
        # Copying gradients together saves memory on a GPU; on a CPU it is a copy more, 5% of a
        # small model's step.
        "zero_optimization": {"stage": zero_stage, "contiguous_gradients": bf16},
        "bf16": {"enabled": bf16},
        "data_types": {"grad_accum_dtype": "fp32"},
        # Else what was added up in fp32 is rounded to bf16 on its way to the optimizer.
        "communication_data_type": "fp32",
        # Its clock waits for the device before and after each part of a step.
        "timers": {"throughput": {"enabled": False}},
        "steps_per_print": 10**12,
        "wall_clock_breakdown": False,
    }


def start_engine(
    model: nn.Module, optimizer: torch.optim.Optimizer, config: dict[str, Any], device: torch.device
) -> Any:
    """A DeepSpeed engine: `engine(...)`, `engine.backward(loss)`, `engine.step()`."""
    deepspeed = import_deepspeed(device.type)
    # Buffers too, which DeepSpeed would leave: timm's key biases are added to bf16 ones.
    dtype = torch.bfloat16 if config["bf16"]["enabled"] else torch.float32
    # Its bf16 optimizer prints its memory, six lines for each group of parameters.
    with _launched(), contextlib.redirect_stdout(io.StringIO()):
        engine, _, _, _ = deepspeed.initialize(
            model=model.to(device, dtype),
            optimizer=optimizer,
            config=config,
            dist_init_required=False,
        )
    return engine


def whole_model(engine: Any, model: Model) -> Model:
    """The engine's weights in full precision, put into `model` on the CPU. All processes call it.

    Under bf16 the engine's module holds rounded weights; the float32 ones that the optimizer works
    on are shared out over the processes.
    """
    from deepspeed.utils import safe_get_full_fp32_param

    state = engine.module.state_dict()
    for name, parameter in engine.module.named_parameters():
        if parameter.dtype != torch.float32:
            state[name] = safe_get_full_fp32_param(parameter)
    model.load_state_dict({name: tensor.detach().float().cpu() for name, tensor in state.items()})
    return model


@contextlib.contextmanager
def _launched() -> Iterator[None]:
    """Inside, the environment holds what a launcher sets; without one, a single process.

    A single process meets itself at a free port of this machine's loopback. Outside nothing of
    that is left, so that programs started from here do not take themselves for its peers.
    """
    given = [name for name in LAUNCHER_VARIABLES if name in os.environ]
    if len(given) == len(LAUNCHER_VARIABLES):
        yield
        return
    if given:
        missing = [name for name in LAUNCHER_VARIABLES if name not in os.environ]
        raise InputError(
            f"{', '.join(given)} is set but {', '.join(missing)} is not; unset all, or start with "
            "torchrun or deepspeed"
        )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    values = ("0", "1", "0", "127.0.0.1", str(port))
    own = dict(zip(LAUNCHER_VARIABLES, values, strict=True))
    if "GLOO_SOCKET_IFNAME" not in os.environ:
        own["GLOO_SOCKET_IFNAME"] = "lo"  # a host name may not resolve; nothing leaves the machine
    os.environ.update(own)
    try:
        yield
    finally:
        for name in own:
            os.environ.pop(name, None)


def import_deepspeed(kind: str) -> Any:
    """The package, quiet and for an accelerator "cpu" or "cuda"; the first call decides which."""
    os.environ.setdefault("DS_ACCELERATOR", kind)  # otherwise it probes, and warns
    for name in ("DeepSpeed", "torch.utils.cpp_extension"):
        logging.getLogger(name).setLevel(logging.ERROR)
    import deepspeed
    import deepspeed.ops

    deepspeed.utils.logger.setLevel(logging.ERROR)
    # On CPU DeepSpeed would compile an all-reduce of its own, a minute with g++ at first use, to
    # spare gloo a copy. Training here sends gradients once a step: gloo does, and no compiler is
    # needed.
    if kind == "cpu":
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed
