"""Reads EPIC-KITCHENS hand-object detections (Shan et al. 2020) without running their code.

A file is a pickled list of bytes, with one protobuf message for each frame. The unpickler refuses
classes, and memory beyond the size of the file. The few message types are read directly from the
wire format. So neither the pickle nor a protobuf library must be trusted:

    Detections      2 frame_number (from 1), 3 repeated HandDetection, 4 repeated ObjectDetection
    Hand-, ObjectDetection      1 BBox, 2 score
    BBox            1 left, 2 top, 3 right, 4 bottom, as shares of the frame
"""

from __future__ import annotations

import io
import pickle
import pickletools
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from shared.errors import InputError

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # wire types
FRAME_NUMBER, HANDS, OBJECTS = 2, 3, 4  # fields of Detections
BOX, SCORE = 1, 2  # fields of both kinds of detection


class _NoClasses(pickle.Unpickler):
    """Loads numbers, strings, bytes and lists of them; it refuses classes and functions."""

    def find_class(self, module: str, name: str) -> type:
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def _load(content: bytes) -> object:
    """Load a pickle without classes.

    The unpickler makes a table as long as the largest memo index, so ten bytes can ask for 32 GB.
    Pickles number their objects consecutively, so an index is below the number of bytes.

    Raises:
        Exception: of any kind, because a damaged pickle can raise anything.
    """
    for opcode, argument, _ in pickletools.genops(content):
        if opcode.name.endswith("PUT") and argument is not None and argument >= len(content):
            raise pickle.UnpicklingError(f"it claims {argument} objects in {len(content)} bytes")
    return _NoClasses(io.BytesIO(content)).load()


def read_detections(path: Path, min_score: float) -> dict[int, np.ndarray]:
    """Read boxes of hands and objects by frame number (from 1), as shares of the frame.

    Args:
        path: `<video_id>.pkl`.
        min_score: detections with a lower score are ignored.

    Returns:
        frame number -> float32 [K, 4], x1 y1 x2 y2 in 0..1.

    Raises:
        InputError: the file is not a pickled list of bytes, asks for a class, or has a message in
            another format.
    """
    try:
        messages = _load(path.read_bytes())
    except Exception as error:  # a damaged pickle can raise anything
        raise InputError(
            "unsafe-file", f"{path}: this is not a plain pickled list of bytes ({error})"
        ) from None
    if not isinstance(messages, list) or not all(isinstance(item, bytes) for item in messages):
        raise InputError("wrong-format", f"{path}: a pickled list of bytes is expected")
    frames = {}
    for index, message in enumerate(messages):
        try:
            number, boxes = parse_frame(message, min_score)
        except (ValueError, struct.error) as error:
            raise InputError(
                "wrong-format", f"{path}, message {index}: this is not a detection ({error})"
            ) from None
        frames[number] = boxes
    return frames


def parse_frame(message: bytes, min_score: float) -> tuple[int, np.ndarray]:
    """Read one message: the frame number, and boxes float32 [K, 4] of at least `min_score`.

    Raises:
        ValueError: the message has another format, or a box is outside 0..1.
    """
    number = 0
    boxes = []
    for field, wire_type, whole, content in _fields(message):
        if (field, wire_type) == (FRAME_NUMBER, VARINT):
            number = whole
        elif field in (HANDS, OBJECTS) and wire_type == BYTES:
            box, score = _detection(content)
            if score >= min_score:
                boxes.append(box)
    found = np.array(boxes, np.float32).reshape(-1, 4)
    if not (np.all(found >= 0) and np.all(found <= 1)):  # also refuses NaN
        raise ValueError("a box leaves the frame")
    return number, found[(found[:, 2] > found[:, 0]) & (found[:, 3] > found[:, 1])]


def _detection(message: bytes) -> tuple[list[float], float]:
    box, score = [0.0] * 4, 0.0  # absent in proto3 = 0
    for field, wire_type, _, content in _fields(message):
        if (field, wire_type) == (SCORE, FIXED32):
            score = _float(content)
        elif (field, wire_type) == (BOX, BYTES):
            for side, side_type, _, coordinate in _fields(content):
                if 1 <= side <= 4 and side_type == FIXED32:
                    box[side - 1] = _float(coordinate)
    return box, score


def _fields(message: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """Yield (field number, wire type, whole number, content) for each field of a message.

    A VARINT has a whole number and no content. The other types have content, and 0 as number.
    """
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        field, wire_type = key >> 3, key & 7
        if wire_type == VARINT:
            value, position = _varint(message, position)
            yield field, wire_type, value, b""
            continue
        if wire_type == BYTES:
            length, position = _varint(message, position)
        elif wire_type in (FIXED32, FIXED64):
            length = 4 if wire_type == FIXED32 else 8
        else:
            raise ValueError(f"wire type {wire_type}")
        if position + length > len(message):
            raise ValueError("a field is cut short")
        yield field, wire_type, 0, message[position : position + length]
        position += length


def _varint(message: bytes, position: int) -> tuple[int, int]:
    """A number with 7 bits in each byte, lowest first, and the position after it."""
    number = 0
    for shift in range(0, 64, 7):
        if position >= len(message):
            raise ValueError("a number is cut short")
        byte = message[position]
        position += 1
        number |= (byte & 0x7F) << shift
        if not byte & 0x80:
            return number, position
    raise ValueError("a number of more than 64 bits")


def _float(value: bytes) -> float:
    return struct.unpack("<f", value)[0]
