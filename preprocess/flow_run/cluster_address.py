"""Whether a Ray cluster answers at an address, before Ray itself tries for minutes."""

from __future__ import annotations

import os
import re
import socket

from shared.errors import InputError

ANSWER_SECONDS = 10.0
# Ray's calls are built on HTTP/2. A client opens a connection with a fixed text and an empty frame
# of settings, and a server answers with a frame of settings (RFC 9113, section 3.4).
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
FRAME_HEADER_BYTES, TYPE_BYTE, SETTINGS = 9, 3, 4


def require_answer(address: str, seconds: float = ANSWER_SECONDS) -> None:
    """Check that a Ray cluster may be at an address.

    Addresses without a host and a port, such as `auto`, are left to Ray.

    Args:
        address: the value of RAY_ADDRESS, such as 10.0.0.5:6379 or ray://10.0.0.5:10001.
        seconds: how long an answer may take.

    Raises:
        InputError: nobody answers there, or somebody who is not Ray.
    """
    found = re.fullmatch(r"(?:ray://)?\[?([^/\[\]]+)\]?:(\d+)", address)
    if found is None:
        return
    try:
        with socket.create_connection((found[1], int(found[2])), seconds) as connection:
            if os.environ.get("RAY_USE_TLS", "0") == "1":
                return  # what is said over this connection is encrypted
            connection.settimeout(seconds)
            connection.sendall(PREFACE)
            answer = connection.recv(FRAME_HEADER_BYTES, socket.MSG_WAITALL)
    except (OSError, OverflowError) as error:  # OverflowError: a port above 65535
        raise _unreachable(address, str(error)) from None
    if len(answer) < FRAME_HEADER_BYTES or answer[TYPE_BYTE] != SETTINGS:
        raise _unreachable(address, "a program answers there that is not Ray")


def _unreachable(address: str, reason: str) -> InputError:
    return InputError(
        "no-workers",
        f"The Ray cluster at {address} (RAY_ADDRESS) cannot be reached: {reason}. Give the address "
        "that `ray start --head` printed, such as 10.0.0.5:6379, or leave RAY_ADDRESS out to use "
        "this machine alone",
    )
