"""Starts the training processes and DeepSpeed, with NCCL on GPUs and gloo on CPUs.

Nothing leaves the machine, and DeepSpeed prints nothing. DeepSpeed is imported only in this module
and only when an engine is started, because it chooses its accelerator at import.
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
    """This process among the processes that train together.

    Attributes:
        rank: number of this process. The process with rank 0 writes files.
        world_size: number of processes.
        device: the device that this process computes on.
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
        """Print a line in the first process only."""
        if self.is_first:
            print(line, flush=True)

    def wait(self) -> None:
        """Wait until all processes have called this."""
        if self.world_size > 1:
            dist.barrier()

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """The mean over all processes; all processes get the same value."""
        if self.world_size > 1:
            dist.all_reduce(values)
            values = values / self.world_size
        return values

    def from_first(self, value: Any) -> Any:
        """The value of the first process."""
        if self.world_size > 1:
            box = [value]
            dist.broadcast_object_list(box, src=0, device=self.device)
            value = box[0]
        return value

    def gather(self, value: Any) -> list[Any]:
        """The values of all processes, in the order of their ranks."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values


def start_processes(device: str) -> Processes:
    """Join the processes that a launcher started; without a launcher, be the only process.

    Args:
        device: "auto" (a GPU if there is one), "cpu" or "cuda".

    Raises:
        InputError: a GPU is requested and there is none, or the launcher set only some variables.
    """
    kind = _kind_of(device)
    with _launched():
        rank, world_size, local_rank = (int(os.environ[name]) for name in LAUNCHER_VARIABLES[:3])
        if kind == "cuda":
            if local_rank >= torch.cuda.device_count():
                raise InputError(
                    "no-gpu",
                    f"process {local_rank} of this machine has no GPU: there are "
                    f"{torch.cuda.device_count()}; start that many processes",
                )
            torch.cuda.set_device(local_rank)
        deepspeed = import_deepspeed(kind)
        if not dist.is_initialized():
            deepspeed.init_distributed("nccl" if kind == "cuda" else "gloo", verbose=False)
            atexit.register(dist.destroy_process_group)
    here = torch.device(kind, local_rank) if kind == "cuda" else torch.device(kind)
    return Processes(rank, world_size, here)


def one_process(device: str) -> Processes:
    """This process alone, without DeepSpeed; the arguments are those of `start_processes`.

    Raises:
        InputError: a GPU is requested and there is none.
    """
    return Processes(0, 1, torch.device(_kind_of(device)))


def _kind_of(device: str) -> str:
    """cpu or cuda."""
    kind = device
    if device == "auto":
        kind = "cuda" if torch.cuda.is_available() else "cpu"
        if kind == "cpu" and (line := unused_gpu(torch.cuda)):
            print(line, file=sys.stderr)
    if kind == "cuda" and (reason := why_no_gpu(torch.cuda)):
        raise InputError(
            "no-gpu", f"--device cuda: no GPU can be used here: {reason}; give --device cpu"
        )
    return kind


def wants_bf16(precision: str, uses_cuda: bool) -> bool:
    """Whether loader.precision means bf16 on this device."""
    return precision == "bf16" or (precision == "auto" and uses_cuda)


def slow_bf16(precision: str, uses_cuda: bool) -> str:
    """A line for a run that computes in bf16 on a CPU with AVX2 or less; "" for others.

    PyTorch then emulates bf16: a product of matrices took 39 times as long as in fp32 on an AMD
    EPYC with AVX2.
    """
    import torch

    if uses_cuda or not wants_bf16(precision, uses_cuda):
        return ""
    capability = torch.backends.cpu.get_cpu_capability()
    if capability not in ("NO AVX", "AVX2"):
        return ""
    return (
        f"This CPU has no instructions for bf16 (it has {capability}), so that bf16 is many times "
        "slower than fp32; give --set loader.precision=fp32 to a new run."
    )


def deepspeed_config(
    plan: BatchPlan, repeats: int, gradient_clipping: float, bf16: bool, zero_stage: int = 1
) -> dict[str, Any]:
    """The configuration of DeepSpeed. Sizes count views; each clip has `repeats` views.

    Raises:
        InputError: stage 0 with bf16, which would sum gradients in bf16.
    """
    if bf16 and zero_stage == 0:
        raise InputError(
            "option-conflict",
            "loader.zero_stage is 0, and training in bf16 (the default on a GPU) needs 1 or 2; "
            "give one of them, or --set loader.precision=fp32",
        )
    return {
        "train_batch_size": plan.batch_size * repeats,
        "train_micro_batch_size_per_gpu": plan.micro_size * repeats,
        "gradient_accumulation_steps": plan.accumulation,
        # Always given, because DeepSpeed's default has changed from 0 to 1.
        "gradient_clipping": gradient_clipping,
        # Copying gradients into one buffer saves memory on a GPU. On a CPU it is an additional
        # copy, 5% of a small model's step.
        "zero_optimization": {"stage": zero_stage, "contiguous_gradients": bf16},
        "bf16": {"enabled": bf16},
        "data_types": {"grad_accum_dtype": "fp32"},
        # Otherwise sums in fp32 are rounded to bf16 before they reach the optimizer.
        "communication_data_type": "fp32",
        # DeepSpeed's clock waits for the device before and after each part of a step.
        "timers": {"throughput": {"enabled": False}},
        "steps_per_print": 10**12,
        "wall_clock_breakdown": False,
    }


def start_engine(
    model: nn.Module, optimizer: torch.optim.Optimizer, config: dict[str, Any], device: torch.device
) -> Any:
    """A DeepSpeed engine: `engine(...)`, `engine.backward(loss)`, `engine.step()`."""
    deepspeed = import_deepspeed(device.type)
    # Converts buffers too, which DeepSpeed would not: timm adds its key biases to bf16 biases.
    dtype = torch.bfloat16 if config["bf16"]["enabled"] else torch.float32
    # DeepSpeed's bf16 optimizer prints its memory use, six lines for each group of parameters.
    with _launched(), contextlib.redirect_stdout(io.StringIO()):
        engine, _, _, _ = deepspeed.initialize(
            model=model.to(device, dtype),
            optimizer=optimizer,
            config=config,
            dist_init_required=False,
        )
    return engine


def whole_model(engine: Any, model: Model) -> Model:
    """Copy the float32 weights of the engine into `model` on the CPU. All processes must call this.

    With bf16 the engine's module holds rounded weights. The float32 weights that the optimizer
    updates are partitioned over the processes.
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
    """Set the environment variables of a launcher; without a launcher, those of a single process.

    A single process uses a free port of the loopback interface. The variables are removed at the
    end, so that programs that are started from here do not join this process.
    """
    given = [name for name in LAUNCHER_VARIABLES if name in os.environ]
    if len(given) == len(LAUNCHER_VARIABLES):
        yield
        return
    if given:
        missing = [name for name in LAUNCHER_VARIABLES if name not in os.environ]
        raise InputError(
            "other-processes",
            f"the environment has {', '.join(given)} but not {', '.join(missing)}; unset all of "
            "them, or start the command with torchrun or deepspeed",
        )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    values = ("0", "1", "0", "127.0.0.1", str(port))
    own = dict(zip(LAUNCHER_VARIABLES, values, strict=True))
    if "GLOO_SOCKET_IFNAME" not in os.environ:
        own["GLOO_SOCKET_IFNAME"] = (
            "lo"  # a host name might not resolve, and nothing leaves the machine
        )
    os.environ.update(own)
    try:
        yield
    finally:
        for name in own:
            os.environ.pop(name, None)


def import_deepspeed(kind: str) -> Any:
    """Import DeepSpeed without its messages, for "cpu" or "cuda". The first call decides which."""
    os.environ.setdefault("DS_ACCELERATOR", kind)  # otherwise DeepSpeed tries them all and warns
    for name in ("DeepSpeed", "torch.utils.cpp_extension"):
        logging.getLogger(name).setLevel(logging.ERROR)
    import deepspeed
    import deepspeed.ops

    deepspeed.utils.logger.setLevel(logging.ERROR)
    # On a CPU DeepSpeed would compile its own all-reduce at first use, which takes g++ a minute and
    # saves one copy. Training sends gradients only once a step, so that gloo is fast enough and no
    # compiler is needed.
    if kind == "cpu":
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed
