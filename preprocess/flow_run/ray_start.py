"""Start Ray on this machine, closed to the network, or join a cluster."""

from __future__ import annotations

import os
import secrets
import sys
from pathlib import Path
from typing import Any

from shared.errors import InputError

OBJECT_STORE_BYTES = 80 << 20  # at least; Ray refuses less
OBJECT_STORE_BYTES_A_BATCH = 32 << 20
IN_A_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # what Ray sets for a program that was submitted as a job
NOT_SHIPPED = ["out/", ".venv/", ".git/", "build/", "tests/"]  # to a cluster, with the code


def start_ray(num_workers: int, num_gpus: int, num_batches: int, dashboard: bool = False) -> Any:
    """Start Ray on this machine, or join the cluster of RAY_ADDRESS; returns the module.

    Raises:
        InputError: Ray is not installed, or the cluster is not reached.
    """
    address = os.environ.get("RAY_ADDRESS")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if not address:
        # Ray binds to all interfaces unless it takes this machine for one that cannot be part of a
        # cluster; it then binds to 127.0.0.1 alone. Read when Ray is imported.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        _require_token()
    # Twenty lines of advice for each actor that dies; failures.jsonl has the clip, and one line.
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "A worker died or was killed")
    try:
        import ray
    except ImportError:
        raise InputError("Ray is not installed; install it, or use --pool in-process") from None
    common: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    try:
        if address:
            root = Path(__file__).resolve().parents[2]
            environment: dict[str, Any] = {"working_dir": str(root), "excludes": NOT_SHIPPED}
            if IN_A_JOB in os.environ:
                environment = {}  # `ray job submit` has sent the code, and Ray refuses two of them
            ray.init(address=address, runtime_env=environment, **common)
        else:
            context = ray.init(
                address="local",
                num_cpus=num_workers,
                num_gpus=num_gpus,
                include_dashboard=dashboard,
                dashboard_host="127.0.0.1",
                object_store_memory=max(
                    OBJECT_STORE_BYTES, num_batches * OBJECT_STORE_BYTES_A_BATCH
                ),
                **common,
            )
            if dashboard:
                print(f"Ray's dashboard: http://{context.dashboard_url}")
    except (ConnectionError, RuntimeError, TimeoutError, ValueError) as error:
        where = f"the cluster at {address}" if address else "this machine"
        raise InputError(f"Ray does not start on {where}: {error}") from None
    return ray


def _require_token() -> None:
    """Let no other user of this machine in: who calls this Ray must know this run's token.

    Versions without token authentication take no notice. Whoever set the mode keeps it, and so does
    a program that has imported Ray already: then the mode has been read.
    """
    if "ray" in sys.modules:
        return
    mode = os.environ.setdefault("RAY_AUTH_MODE", "token")
    has_token = "RAY_AUTH_TOKEN" in os.environ or "RAY_AUTH_TOKEN_PATH" in os.environ
    if mode == "token" and not has_token:
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
