"""Estimates and removes camera motion between two frames, as improved dense trajectories do.

Wang and Schmid (ICCV 2013, section 2.1) match features between the frames, fit a homography by
RANSAC, warp the second frame back by it, and compute flow again:

    camera = camera_motion(first, second)
    flow = source(first, warp_back(second, camera.homography, first))

The result is the motion of the scene itself, at the positions of the first frame. `residual_flow`
is cheaper: it fits the homography to existing flow, and removes camera motion by arithmetic.

A homography is a float64 3x3 matrix that maps (x, y, 1) of the first frame to the second. Pixel
centres are at whole numbers. The largest part of the frame counts as background: the motion of a
hand that fills the frame is mistaken for camera motion. The paper masks people with a detector to
avoid this; this module does not.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

MIN_INLIERS = 25  # fewer do not determine eight unknowns well; the paper's public code has 50
MAX_CORNERS = 600
CORNER_QUALITY = 0.001  # of the best corner's eigenvalue, as in the paper
INLIER_PX = 1.0  # distance at which a match agrees with the homography
TRACKING_WINDOW = 15  # pixels, side of the window of Lucas-Kanade
TRACKING_HALVINGS = 3  # levels of the image pyramid below the full size
ROUND_TRIP_PX = 0.5  # a corner tracked forth and back must return this close to its position
FLOW_SAMPLES = 1500
FLOW_INLIER_PX = 0.5


@dataclass(frozen=True)
class CameraMotion:
    """Camera motion from the first frame to the second.

    Attributes:
        homography: float64 [3, 3], first frame -> second frame, last value 1. It is the identity if
            too few matches agree (num_inliers below MIN_INLIERS), or if the homography would fold
            the image.
        num_inliers: number of matches that agree on a homography, even if that was rejected.
    """

    homography: np.ndarray
    num_inliers: int


def camera_motion(first: np.ndarray, second: np.ndarray) -> CameraMotion:
    """Estimate the camera motion between two grey frames, uint8 [H, W].

    Corners (Shi and Tomasi) are tracked forth and back by pyramidal Lucas-Kanade. If fewer than
    half of the corners agree, ORB descriptors are matched too, because they find points that moved
    far. The same frames give the same result in any order of calls, because RANSAC starts from a
    fixed seed.
    """
    assert first.shape == second.shape and first.dtype == second.dtype == np.uint8
    corners = _corners(first)
    matches = _tracked(first, second, corners)
    size = (first.shape[0], first.shape[1])
    camera = _fit(matches, size, INLIER_PX)
    if camera.num_inliers >= max(MIN_INLIERS, len(corners) / 2):
        return camera
    matches = np.concatenate([matches, _descriptor_matches(first, second)], axis=1)
    with_descriptors = _fit(matches, size, INLIER_PX)
    return max(camera, with_descriptors, key=lambda motion: motion.num_inliers)


def warp_back(
    second: np.ndarray, homography: np.ndarray, first: np.ndarray | None = None
) -> np.ndarray:
    """Warp the second frame to the camera position of the first.

    Args:
        second: uint8 [H, W].
        homography: float64 [3, 3], first frame -> second frame.
        first: uint8 [H, W]. Pixels that the second frame does not show are copied from it, so that
            no motion appears there. None repeats the edge of the second frame instead.

    Returns:
        uint8 [H, W].
    """
    height, width = second.shape
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP  # the homography maps output to input
    warped = cv2.warpPerspective(
        second, homography, (width, height), flags=flags, borderMode=cv2.BORDER_REPLICATE
    )
    if first is not None:
        visible = _visible(homography, (height, width))
        warped[~visible] = first[~visible]
    return warped


def total_flow(residual: np.ndarray, homography: np.ndarray) -> np.ndarray:
    """Compute flow between the original frames from flow to the warped frame: H(x + w) - x.

    This is the inverse of `residual_flow`.

    Args:
        residual: float32 [2, H, W], w, pixels per frame.
        homography: float64 [3, 3], first frame -> second frame.

    Returns:
        float32 [2, H, W], pixels per frame.
    """
    positions = _pixel_positions(residual.shape[1:])
    return (_apply(homography, positions + residual) - positions).astype(np.float32)


def residual_flow(
    flow: np.ndarray, inlier_px: float = FLOW_INLIER_PX
) -> tuple[np.ndarray, np.ndarray, int]:
    """Remove camera motion from a flow field, without the frames.

    A homography H is fitted by RANSAC to flow sampled on a grid. The result is the flow to the
    warped frame, w = H^-1(x + flow) - x: the motion of the scene itself, at the positions of the
    first frame. It is 0 where the scene is still.

    Args:
        flow: float32 [2, H, W], u then v, pixels per frame.
        inlier_px: distance up to which a sample agrees with the homography, pixels of the field.

    Returns:
        residual: float32 [2, H, W], pixels per frame.
        homography: float64 [3, 3], first frame -> second frame.
        num_inliers: number of samples that agree with it. If there are fewer than MIN_INLIERS, the
            flow is returned unchanged, with the identity.
    """
    positions = _pixel_positions(flow.shape[1:])
    step = max(1, round(np.sqrt(flow[0].size / FLOW_SAMPLES)))
    sampled = np.s_[:, step // 2 :: step, step // 2 :: step]
    points = positions[sampled].reshape(2, -1).T
    matches = np.stack([points, points + flow[sampled].reshape(2, -1).T])
    camera = _fit(matches, (flow.shape[1], flow.shape[2]), inlier_px)
    back = _apply(np.linalg.inv(camera.homography), positions + flow)
    return (back - positions).astype(np.float32), camera.homography, camera.num_inliers


def _corners(picture: np.ndarray) -> np.ndarray:
    """float32 [N, 2]: x, y of corners, spread over the image."""
    apart = max(4, min(picture.shape) // 40)
    corners = cv2.goodFeaturesToTrack(picture, MAX_CORNERS, CORNER_QUALITY, apart)
    return np.empty((0, 2), np.float32) if corners is None else corners.reshape(-1, 2)


def _tracked(first: np.ndarray, second: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """float32 [2, M, 2]: corners that return to their position, and their positions in `second`."""
    if len(corners) == 0:
        return np.empty((2, 0, 2), np.float32)
    moved, found = _track(first, second, corners)
    back, found_back = _track(second, first, moved)
    returned = np.linalg.norm(back - corners, axis=1) < ROUND_TRIP_PX
    kept = returned & found & found_back
    return np.stack([corners[kept], moved[kept]])


def _track(
    first: np.ndarray, second: np.ndarray, points: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """New positions of points, float32 [N, 2], by pyramidal Lucas-Kanade, and bool [N]: found."""
    moved, found, _ = cv2.calcOpticalFlowPyrLK(  # type: ignore[call-overload]  # None: a new array
        first,
        second,
        points,
        None,
        winSize=(TRACKING_WINDOW, TRACKING_WINDOW),
        maxLevel=TRACKING_HALVINGS,
        criteria=(cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 20, 0.03),
    )
    return moved, found.ravel() == 1


def _descriptor_matches(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """float32 [2, M, 2]: points of both frames whose ORB descriptors are mutual best matches."""
    orb = cv2.ORB.create(nfeatures=MAX_CORNERS, fastThreshold=10)
    (here, words), (there, other_words) = (
        orb.detectAndCompute(picture, None) for picture in (first, second)
    )
    if words is None or other_words is None:
        return np.empty((2, 0, 2), np.float32)
    matches = cv2.BFMatcher(cv2.NORM_HAMMING, crossCheck=True).match(words, other_words)
    pairs = [(here[match.queryIdx].pt, there[match.trainIdx].pt) for match in matches]
    return np.array(pairs, np.float32).reshape(-1, 2, 2).transpose(1, 0, 2)


def _fit(matches: np.ndarray, size: tuple[int, int], inlier_px: float) -> CameraMotion:
    """Fit the homography that most matches agree on.

    Args:
        matches: float [2, N, 2], x, y of points in the first frame, and in the second.
        size: height, width of the frames.
        inlier_px: distance up to which a match agrees, pixels.
    """
    points, moved = matches
    num_inliers = 0
    if len(points) >= 4:
        homography, is_inlier = cv2.findHomography(points, moved, _ransac(inlier_px))
        num_inliers = 0 if homography is None else int(is_inlier.sum())
    if num_inliers < MIN_INLIERS:
        return CameraMotion(np.eye(3), num_inliers)
    kept = is_inlier.ravel() == 1
    homography, _ = cv2.findHomography(points[kept], moved[kept], 0)  # least squares
    if homography is None or _folds(homography, size):
        return CameraMotion(np.eye(3), num_inliers)
    return CameraMotion(homography, num_inliers)


def _ransac(inlier_px: float) -> cv2.UsacParams:
    parameters = cv2.UsacParams()
    parameters.threshold = inlier_px
    parameters.confidence = 0.9999
    parameters.maxIterations = 2000
    parameters.score = cv2.SCORE_METHOD_MAGSAC
    parameters.loMethod = cv2.LOCAL_OPTIM_SIGMA
    parameters.randomGeneratorState = 0
    parameters.isParallel = False
    return parameters


def _folds(homography: np.ndarray, size: tuple[int, int]) -> bool:
    """Whether a homography cannot be camera motion between two frames of a shot.

    The corners of the frame must stay a convex quadrilateral with the same sense of rotation, and
    with between half and twice the area.
    """
    height, width = size
    corners = np.array([[0, width, width, 0], [0, 0, height, height]], dtype=np.float64)
    depth = homography[2, :2] @ corners + homography[2, 2]
    if depth.min() <= 0:
        return True
    moved = _apply(homography, corners)
    sides = np.roll(moved, -1, axis=1) - moved
    turned = np.roll(sides, -1, axis=1)
    area = 0.5 * np.sum(moved[0] * np.roll(moved[1], -1) - np.roll(moved[0], -1) * moved[1])
    is_convex = (sides[0] * turned[1] - sides[1] * turned[0] > 0).all()
    return not (is_convex and 0.5 < area / (height * width) < 2)


def _visible(homography: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """bool [H, W]: pixels of the first frame that the second frame shows too."""
    height, width = size
    x, y = _apply(homography, _pixel_positions(size))
    return (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)


def _pixel_positions(size: tuple[int, int]) -> np.ndarray:
    """float64 [2, H, W]: x and y of each pixel."""
    return np.stack(np.meshgrid(np.arange(size[1]), np.arange(size[0]))).astype(np.float64)


def _apply(homography: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Map points [2, ...], x and y, by a homography."""
    (a, b, c), (d, e, f), (g, h, i) = homography
    x, y = points
    depth = g * x + h * y + i
    return np.stack([(a * x + b * y + c) / depth, (d * x + e * y + f) / depth])
