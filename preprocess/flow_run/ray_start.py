"""Start Ray on this machine, closed to the network, or connect to a cluster."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from preprocess.flow_run.cluster_address import require_answer
from shared.errors import InputError

OBJECT_STORE_BYTES = 80 << 20  # lower limit; Ray refuses less
OBJECT_STORE_BYTES_A_BATCH = 32 << 20
IN_A_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # Ray sets it for a program that was submitted as a job
START_TRIES, TOO_SLOW = 3, "timed out during startup"
QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
# Folders that do not go to a cluster with the code.
NOT_SENT = ["out/", "s3.mirror/", ".venv/", ".git/", "build/", "tests/"]


def is_cluster_named() -> bool:
    """Whether RAY_ADDRESS names a cluster; without it, Ray is started on this machine alone."""
    return bool(os.environ.get("RAY_ADDRESS"))


def connect_to_cluster() -> Any:
    """Connect to the cluster at RAY_ADDRESS, and send the code there; returns the module.

    Raises:
        InputError: Ray is not installed, or the cluster cannot be reached.
    """
    address = os.environ["RAY_ADDRESS"]
    ray = _imported_ray()
    require_answer(address)
    root = Path(__file__).resolve().parents[2]
    environment: dict[str, Any] = {"working_dir": str(root), "excludes": NOT_SENT}
    if IN_A_JOB in os.environ:
        environment = {}  # `ray job submit` has sent the code already; Ray refuses it twice
    with _plain_errors(f"the cluster at {address}", "Check RAY_ADDRESS"):
        ray.init(address=address, runtime_env=environment, **QUIET)
    return ray


def start_ray(num_workers: int, num_gpus: int, num_batches: int, dashboard: bool = False) -> Any:
    """Start Ray on this machine; returns the module.

    Args:
        num_workers: number of worker processes.
        num_gpus: number of GPUs for them.
        num_batches: number of batches that exist at once.
        dashboard: whether Ray shows its dashboard.

    Raises:
        InputError: Ray is not installed, or does not start.
    """
    # Ray listens on all interfaces, except on systems that it does not support in a cluster.
    # There it listens on 127.0.0.1 only. Ray reads this variable when it is imported.
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    _require_token()
    ray = _imported_ray()
    with _plain_errors("this machine", "Try --pool in-process"):
        context = _start_patiently(
            ray,
            address="local",
            num_cpus=num_workers,
            num_gpus=num_gpus,
            include_dashboard=dashboard,
            dashboard_host="127.0.0.1",
            object_store_memory=max(OBJECT_STORE_BYTES, num_batches * OBJECT_STORE_BYTES_A_BATCH),
            **QUIET,
        )
    if dashboard:
        print(f"Ray's dashboard is at http://{context.dashboard_url}")
    return ray


def _start_patiently(ray: Any, **options: Any) -> Any:
    """`ray.init`, again where other work keeps Ray's processes from starting within its 30 s."""
    for _ in range(START_TRIES - 1):
        try:
            return ray.init(**options)
        except Exception as error:
            if TOO_SLOW not in str(error):
                raise
            ray.shutdown()
    return ray.init(**options)


def _imported_ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray prints twenty lines of advice for each actor that dies. failures.jsonl has one line.
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "A worker died or was killed")
    try:
        import ray
    except ImportError:
        raise InputError(
            "missing-package",
            "Ray is not installed. Install it (pip install ray), or use --pool in-process",
        ) from None
    return ray


@contextmanager
def _plain_errors(where: str, advice: str) -> Iterator[None]:
    """One line for what Ray raises where it does not start; it ends the program for some causes."""
    try:
        yield
    except (Exception, SystemExit) as error:  # Ray raises plain exceptions too
        reason = "it does not answer" if isinstance(error, SystemExit) else str(error)
        raise InputError(
            "no-workers", f"Ray does not start on {where}: {reason}. {advice}"
        ) from None


def _require_token() -> None:
    """Keep other users of this machine out: callers of this Ray must know the token of this run.

    Versions of Ray without token authentication ignore it. A mode that the user has set is kept. A
    program that has imported Ray already keeps its mode too, because Ray has read it.
    """
    if "ray" in sys.modules:
        return
    mode = os.environ.setdefault("RAY_AUTH_MODE", "token")
    has_token = "RAY_AUTH_TOKEN" in os.environ or "RAY_AUTH_TOKEN_PATH" in os.environ
    if mode == "token" and not has_token:
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
