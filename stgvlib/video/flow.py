"""Dense optical flow between frames, and points that follow it: OpenCV's dense inverse search (Kroeger et al. 2016)."""

from dataclasses import dataclass

import cv2
import numpy as np

SIDE = 512  # px, the longer side of the frames that flow is computed on
CELLS = 12, 20  # of a frame, rows and columns


@dataclass
class Flow:
    """Flow of one GoP: `steps[i]` [h, w, 2] moves points to frame i, from its neighbour on the key frame's side."""

    steps: list[np.ndarray | None]  # None at the key frame
    keyframe: int
    scale: float  # of the flow's frames to the video's

    def tracks(self, mu: np.ndarray) -> np.ndarray:
        """Points [N, 2] px of the key frame -> where they are in every frame, [T, N, 2] px."""
        mu = mu.astype(np.float32)
        out = np.empty((len(self.steps), *mu.shape), np.float32)
        out[self.keyframe] = mu
        for i in [*range(self.keyframe + 1, len(self.steps)), *reversed(range(self.keyframe))]:
            at = out[i - 1 if i > self.keyframe else i + 1]
            out[i] = at + sample(self.steps[i], at * self.scale - 0.5) / self.scale
        return out

    def uncovered(self, size: tuple[int, int]) -> float:
        """Part of the last frame [H, W] where nothing of the first is: of CELLS, in each of which four points begin."""
        (rows, columns), side = CELLS, np.array(size[::-1], np.float32) / CELLS[::-1]
        y, x = np.mgrid[0 : 2 * rows, 0 : 2 * columns]
        points = (np.stack([x, y], -1).reshape(-1, 2) / 2 + 0.25) * side
        x, y = np.floor(self.tracks(points)[-1] / side).astype(int).T
        inside = (x >= 0) & (x < columns) & (y >= 0) & (y < rows)
        covered = np.zeros(CELLS, bool)
        covered[y[inside], x[inside]] = True
        return 1 - float(covered.mean())


def sample(picture: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Bilinear values of a picture [h, w, C] at pixel numbers [N, 2], the edge's beyond it: [N, C]."""
    rows = max(1, -(-len(at) // 256))  # OpenCV's pictures have at most 32,767 rows
    places = np.zeros((rows * 256, 2), np.float32)
    places[: len(at)] = at
    x, y = places.T.reshape(2, rows, 256)
    values = cv2.remap(picture, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return values.reshape(rows * 256, -1)[: len(at)]


def flow_of(frames: np.ndarray, keyframe: int, known: np.ndarray | None = None) -> Flow:
    """Flow of uint8 frames [T, H, W, 3] from the key frame on; `known` [T, H, W] is 0 where a pixel is missing."""
    scale = min(1.0, SIDE / max(frames.shape[1:3]))
    pictures = [grey(frame, None if known is None else known[i], scale)[0] for i, frame in enumerate(frames)]
    steps: list[np.ndarray | None] = [None] * len(frames)
    for i in range(len(frames)):
        if i != keyframe:
            steps[i] = dense_flow(pictures[i - 1 if i > keyframe else i + 1], pictures[i])
    return Flow(steps, keyframe, scale)


def dense_flow(there: np.ndarray, back: np.ndarray) -> np.ndarray:
    """How far each pixel of a grey picture [h, w] has moved in another, px [h, w, 2]; none where they are tiny."""
    if min(there.shape) < 16:  # its patches need room
        return np.zeros((*there.shape, 2), np.float32)
    # Anew each time: what one has done before changes the flow of very small pictures.
    method = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    return method.calc(there, back, None)


def grey(frame: np.ndarray, known: np.ndarray | None, scale: float) -> tuple[np.ndarray, np.ndarray | None]:
    """A small grey picture of a frame [H, W, 3], and where it has holes, 1 there; `known` [H, W] is 0 where a pixel is
    missing, or None where none is. Holes are filled from around them, or the flow would follow them."""
    picture = cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY)
    size = [max(1, round(side * scale)) for side in picture.shape[::-1]]
    picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    if known is None:
        return picture, None
    holes = np.where(known == 0, 255, 0).astype(np.uint8)
    holes = (cv2.resize(holes, size, interpolation=cv2.INTER_AREA) > 0).astype(np.uint8)
    if holes.any():
        picture = cv2.inpaint(picture, holes, 3, cv2.INPAINT_TELEA)
    return picture, holes
