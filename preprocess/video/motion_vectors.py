"""Flow from the codec: the block motion vectors that H.264 and MPEG-4 Part 2 streams contain.

    stream = container.streams.video[0]
    export_vectors(stream)                      # before the first frame is decoded
    flows = VectorFlows(stream)
    for packet in container.demux(stream):
        flows.note(packet)
        for frame in packet.decode():
            maps = flows.add(frame)             # float32 [2, h, w] of frames that became ready
    maps = flows.finish()

The rest follows from what FFmpeg (libavcodec 59 to 62) exports, as measured:

- A row says that a block of this frame came from `motion / motion_scale` pixels away in a frame
  of the past (source -1) or the future (+1); forward flow is therefore -motion / scale. A row
  does not say how far away in time that frame is: see `VectorFlows`.
- Intra blocks have no row. B-frames of MPEG-4 Part 2 have rows whose vectors are all zero, whatever
  moves; they are treated as missing. A stream with B-frames has no rows for its last frame.
"""

from __future__ import annotations

import av
import cv2
import numpy as np
from av.video.frame import PictureType

from shared.errors import InputError

CODECS = ("h264", "mpeg4")
VECTOR_CELL = 8  # pixels of the source that a value of a map covers along each side
COLUMNS = (
    "source", "w", "h", "src_x", "src_y", "dst_x", "dst_y", "motion_x", "motion_y", "motion_scale",
)  # fmt: skip

_SLICES = (1, 2, 5)  # H.264 NAL unit types: coded slice, its partition A, slice of an IDR picture


def export_vectors(stream: av.VideoStream) -> None:
    """Make a stream's decoder export its vectors. Call this before the first frame is decoded.

    An option that is set later, or in another way, has no effect and gives no error. Frame
    threading would make vectors of B-frames vary from run to run.

    Raises:
        InputError: the codec exports no vectors; the message has the codec and what to do.
    """
    name = stream.codec_context.name
    if name not in CODECS:
        raise InputError(
            "not-supported",
            f"codec {name} exports no motion vectors; {' and '.join(CODECS)} do. Give --transcode "
            "to re-encode such videos to H.264 in a scratch folder, or another --source",
        )
    stream.codec_context.options = {**stream.codec_context.options, "flags2": "+export_mvs"}
    stream.thread_type = "SLICE"


def _vectors(frame: av.VideoFrame) -> np.ndarray:
    data = frame.side_data.get("MOTION_VECTORS")
    return _NO_VECTORS if data is None else data.to_ndarray()


_NO_VECTORS = np.empty(0, dtype=[(name, np.int32) for name in COLUMNS])


class VectorFlows:
    """Forward flow between consecutive frames, from the vectors of a stream.

    Every frame added gives one map, float32 [2, h, w]: u (right) then v (down), in pixels of the
    source per frame, from the frame before to this one, h = ceil(height / VECTOR_CELL). A value
    stands at the place that its block has in the later frame; a cell is the mean of its blocks by
    area. NaN marks cells without a vector: intra blocks, whole I-frames, and the first frame,
    which has none before it. So F frames give F - 1 flows after the first map is left out.

    A vector spans the frames between its block's frame and the one referred to. FFmpeg does not
    say which that is, so it is taken to be the nearest in the past that can be: for a P-frame the
    I- or P-frame before it, for a B-frame the nearest frame that others refer to (H.264 says so in
    nal_ref_idc; B-pyramids need it). The vector is divided by that number of frames. Encoders may
    refer further back (x264 does by default, for a minority of blocks): what `--transcode` writes
    never does. Of B-frames only vectors from the past count; cells that have none take those of
    the next P-frame, which span the same time.

    Maps come in order, those of B-frames after the P- or I-frame that follows them.
    """

    def __init__(self, stream: av.VideoStream) -> None:
        codec = stream.codec_context
        self._has_b_vectors = codec.name != "mpeg4"
        self._is_reference: dict[int | None, bool] = {}  # of H.264 packets in the decoder, by pts
        self._length_bytes = _nal_length_bytes(codec.extradata) if codec.name == "h264" else None
        self._waiting: list[np.ndarray] = []  # B-frames since the last other frame
        self._since_anchor = 0  # frames, since the I- or P-frame that the next P-frame refers to
        self._since_reference = 0

    def note(self, packet: av.Packet) -> None:
        """Keep what a frame does not say about its packet, which is about to be decoded."""
        if self._length_bytes is not None and packet.pts is not None and packet.size:
            data = bytes(packet)
            self._is_reference[packet.pts] = _is_reference(data, self._length_bytes)

    def add(self, frame: av.VideoFrame) -> list[np.ndarray]:
        """Take the next frame in display order; returns the maps that became ready."""
        is_b = frame.pict_type == PictureType.B
        is_reference = self._is_reference.pop(frame.pts, not is_b)
        self._since_anchor += 1
        self._since_reference += 1
        self._waiting.append(self._map(frame, is_b))
        if is_reference:
            self._since_reference = 0
        if is_b:
            return []
        if is_reference:
            self._since_anchor = 0
        *waiting, anchor = self._waiting
        for flow in waiting:
            if flow.shape == anchor.shape:  # a stream may change its size
                np.copyto(flow, anchor, where=np.isnan(flow))
        return self.finish()

    def finish(self) -> list[np.ndarray]:
        """The maps of B-frames at the end, which no P-frame follows."""
        ready, self._waiting = self._waiting, []
        return ready

    def _map(self, frame: av.VideoFrame, is_b: bool) -> np.ndarray:
        size = (-(-frame.height // VECTOR_CELL), -(-frame.width // VECTOR_CELL))
        rows = _vectors(frame)
        if is_b and not self._has_b_vectors:
            rows = rows[:0]
        num_frames = self._since_reference if is_b else self._since_anchor
        return cell_displacements(rows[rows["source"] < 0], size) / np.float32(num_frames)


def cell_displacements(rows: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Displacement -motion / scale of blocks, averaged by area over cells of VECTOR_CELL pixels.

    Args:
        rows: [M] structured, fields as in `COLUMNS`; sides of blocks are 4, 8 or 16 px.
        size: (height, width) of the grid in cells; blocks outside of it are ignored.

    Returns:
        float32 [2, h, w] pixels; NaN in cells without a block.
    """
    (height, width), cell = size, VECTOR_CELL
    sums = np.zeros((3, height * width))  # u, v and area
    block_width, block_height = rows["w"].astype(np.int64), rows["h"].astype(np.int64)
    left = rows["dst_x"].astype(np.int64) - block_width // 2
    top = rows["dst_y"].astype(np.int64) - block_height // 2
    area = np.minimum(block_width, cell) * np.minimum(block_height, cell)
    u, v = (-rows[name] / rows["motion_scale"] for name in ("motion_x", "motion_y"))
    for down in range(0, 16, cell):
        for right in range(0, 16, cell):  # the parts of a block that lie in cells of their own
            column, row = (left + right) // cell, (top + down) // cell
            counts = (right < block_width) & (down < block_height)
            counts &= (column >= 0) & (column < width) & (row >= 0) & (row < height)
            index = row[counts] * width + column[counts]
            for total, weights in zip(sums, (u * area, v * area, area), strict=True):
                total += np.bincount(index, weights[counts], minlength=len(total))
    with np.errstate(invalid="ignore"):
        return (sums[:2] / sums[2]).astype(np.float32).reshape(2, height, width)


def fill_holes(flow: np.ndarray, before: np.ndarray | None) -> np.ndarray:
    """Fill the holes of a map, for code that needs a value in every cell.

    A cell without a vector gets the mean of its neighbours, from the rim of the hole inwards, so
    that no motion boundary appears around the hole. A map without any vector (an I-frame) gets the
    values of the map before it, or zero if there is none.

    Args:
        flow: float32 [2, h, w], NaN in holes.
        before: float32 [2, h, w], the map before it, filled.
    """
    known = ~np.isnan(flow[0])
    if not known.any():
        return np.zeros_like(flow) if before is None else before.copy()
    filled = np.where(known, flow, np.float32(0))
    while not known.all():
        counts = _neighbour_sum(known.astype(np.float32))
        rim = ~known & (counts > 0)
        for values in filled:
            values[rim] = (_neighbour_sum(values) / np.maximum(counts, 1))[rim]
        known = known | rim
    return filled


def _neighbour_sum(values: np.ndarray) -> np.ndarray:
    return cv2.boxFilter(values, -1, (3, 3), normalize=False, borderType=cv2.BORDER_CONSTANT)


def turn_upright(flow: np.ndarray, quarter_turns: int, is_mirrored: bool = False) -> np.ndarray:
    """Turn a map [2, h, w] counterclockwise with its picture, as np.rot90 turns that.

    A mirrored one is flipped before, left to right.
    """
    if is_mirrored:
        flow = np.stack([-flow[0, :, ::-1], flow[1, :, ::-1]])
    for _ in range(quarter_turns % 4):
        u, v = np.rot90(flow, axes=(1, 2))
        flow = np.stack([v, -u])  # right becomes up, down becomes right
    return flow


def _nal_length_bytes(extradata: bytes | None) -> int:
    """Bytes of the length field of a NAL unit; 0 if start codes separate the units (Annex B)."""
    if extradata is None or len(extradata) <= 4 or extradata[0] != 1:
        return 0
    return (extradata[4] & 3) + 1


def _is_reference(packet: bytes, length_bytes: int) -> bool:
    """Whether other frames may refer to an H.264 frame: nal_ref_idc of its first slice."""
    position = 0
    while True:
        if length_bytes:
            start = position + length_bytes
            position = start + int.from_bytes(packet[position:start], "big")
        else:
            start = packet.find(b"\0\0\1", position) + 3
            position = start
            if start < 3:
                return True
        if start >= len(packet):
            return True  # no slice was found: the frame counts as a reference
        if packet[start] & 31 in _SLICES:
            return packet[start] >> 5 & 3 > 0
