"""Look into a fitted model in a notebook: `view(model)` scrubs through time and zooms by rendering Gaussians again.

Everything is drawn on the model's device and sent as a JPEG, so it works on a CPU and on a GPU, in JupyterLab, VS Code
and wherever else ipywidgets do.
"""

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from stgvlib.codec.load import load_model
from stgvlib.errors import StgvError
from stgvlib.metrics import to_uint8
from stgvlib.model.video_model import VideoModel
from stgvlib.ops.splat import splat

MODES = ("deformed", "canonical", "static only", "dynamic only")
MARKED = 250  # Gaussians that get an ellipse or an arrow, of the stronger half in view
WIDTH = 720  # px of the picture that is shown


@dataclass(frozen=True)
class Look:
    """What of a model is shown."""

    frame: int = 0
    mode: str = "deformed"  # one of MODES; "static only" silences the 3D hash, "dynamic only" the 2D hash
    zoom: float = 1.0  # 1: the whole frame
    centre: tuple[float, float] = (0.5, 0.5)  # x, y in parts of the frame
    ellipses: bool = False  # outlines at one standard deviation
    arrows: bool = False  # from where a Gaussian is canonically to where it is


class Viewer:
    """Pictures of a model: `picture(Look(...))` is uint8 [H, W, 3]. Raises StgvError for a model without frames, and
    for a look that it has not."""

    def __init__(self, model: VideoModel, width: int = WIDTH):
        if sum(model.num_frames) == 0 or model.count == 0:
            raise StgvError("this model has no frames to look at: fit a video first")
        if width < 16:
            raise StgvError(f"width must be at least 16 px, got {width}")
        self.places = [(g, i) for g, n in enumerate(model.num_frames) for i in range(n)]
        self.gops = [model.gop(g) for g in range(len(model.num_frames))]
        self.size = (max(1, round(width * model.size[0] / model.size[1])), width)
        self.fitted_size = model.size
        field = model.field
        self.modes = MODES if field.spatial is not None and field.temporal is not None else MODES[:2]

    @torch.no_grad()
    def picture(self, look: Look) -> np.ndarray:
        if not 0 <= look.frame < len(self.places):
            raise StgvError(f"frame must be from 0 to {len(self.places) - 1}, got {look.frame}")
        if look.mode not in self.modes:
            raise StgvError(f"mode must be one of {', '.join(self.modes)}, got {look.mode!r}")
        if not 1 <= look.zoom <= 1000:
            raise StgvError(f"zoom must be from 1 to 1000, got {look.zoom}")
        g, index = self.places[look.frame]
        model = self.gops[g]
        home = model.gaussians.pixels()[0]
        mu, cholesky, rgb = self._gaussians(model, index, look.mode)
        height, width = self.fitted_size
        scale = torch.tensor([self.size[1] / width, self.size[0] / height], device=mu.device) * look.zoom
        half = [0.5 / look.zoom] * 2
        centre = [min(max(c, h), 1 - h) for c, h in zip(look.centre, half)]  # the window stays in the frame
        corner = torch.tensor([(c - h) * s for c, h, s in zip(centre, half, (width, height))], device=mu.device)
        there = (mu - corner) * scale
        shape = cholesky * scale[[0, 1, 1]]
        image = to_uint8(splat(there, shape, rgb, self.size)[0]).cpu().numpy()
        weight = (rgb.abs().sum(-1) * cholesky[..., 0] * cholesky[..., 2])[0]
        if look.ellipses:
            self._ellipses(image, there[0], shape[0], weight)
        if look.arrows:
            self._arrows(image, (home[0] - corner) * scale, there[0], weight)
        return image

    @staticmethod
    def _gaussians(model: VideoModel, index: int, mode: str) -> tuple[Tensor, Tensor, Tensor]:
        mu, cholesky = model.gaussians.pixels()
        if mode == "canonical":
            return mu, cholesky, model.gaussians.rgb
        other = {"static only": "temporal", "dynamic only": "spatial"}.get(mode)
        with model.field.silenced(other) if other else nullcontext():
            return model.deform(model.times(torch.tensor([index], device=mu.device)))

    def _marked(self, at: Tensor, weight: Tensor) -> np.ndarray:
        """Numbers of the Gaussians to mark, evenly over the picture: they lie in memory as they lie in space."""
        inside = ((at >= 0) & (at < at.new_tensor([self.size[1], self.size[0]]))).all(1).nonzero()[:, 0]
        strong = inside[weight[inside] >= weight[inside].median()] if len(inside) else inside
        return strong[:: max(1, len(strong) // MARKED)].cpu().numpy()

    def _ellipses(self, image: np.ndarray, at: Tensor, shape: Tensor, weight: Tensor) -> None:
        circle = np.linspace(0, 2 * np.pi, 25)
        unit = np.stack([np.cos(circle), np.sin(circle)])
        for n in self._marked(at, weight):
            l1, l2, l3 = shape[n].tolist()
            outline = np.array([[l1, 0.0], [l2, l3]]) @ unit + at[n].cpu().numpy()[:, None]
            cv2.polylines(image, [np.round(outline.T * 16).astype(np.int32)], True, (255, 230, 0), 1, cv2.LINE_AA, 4)

    def _arrows(self, image: np.ndarray, home: Tensor, there: Tensor, weight: Tensor) -> None:
        for n in self._marked(there, weight):
            start, end = (tuple(np.round(p[n].cpu().numpy()).astype(int).tolist()) for p in (home, there))
            tip = min(0.5, 5 / max(np.hypot(end[0] - start[0], end[1] - start[1]), 1e-3))  # 5 px long
            cv2.arrowedLine(image, start, end, (255, 60, 60), 1, cv2.LINE_AA, tipLength=tip)


def view(model: VideoModel | str | Path, width: int = WIDTH):
    """A widget that shows a model, or the file of one (.safetensors or .stgv), with controls for frame, mode (deformed,
    canonical, one hash alone), zoom and centre, ellipses, and displacement arrows. `width` of the picture is in px.

    Raises StgvError for a model without frames, for a file that cannot be read, and where ipywidgets are missing.

    Examples:
        >>> from stgvlib import PAPER, VideoModel, view
        >>> widget = view(VideoModel(PAPER, num_frames=[2], size=(16, 24), count=5), width=120)
        >>> image, panel = widget.children  # a notebook cell that ends with `widget` shows both
        >>> image.width, image.height  # px
        ('120', '80')
    """
    try:
        import ipywidgets as widgets
    except ImportError as error:
        raise StgvError("view needs ipywidgets: pip install ipywidgets") from error
    viewer = Viewer(load_model(model)[0] if isinstance(model, (str, Path)) else model, width)
    live = {"continuous_update": True, "layout": widgets.Layout(width="260px")}
    controls = {
        "frame": widgets.IntSlider(0, 0, len(viewer.places) - 1, description="frame", **live),
        "mode": widgets.Dropdown(options=viewer.modes, description="show", layout=live["layout"]),
        "zoom": widgets.FloatLogSlider(1.0, base=2, min=0, max=6, step=0.1, description="zoom", **live),
        "x": widgets.FloatSlider(0.5, min=0, max=1, step=0.01, description="x", **live),
        "y": widgets.FloatSlider(0.5, min=0, max=1, step=0.01, description="y", **live),
        "ellipses": widgets.Checkbox(False, description="ellipses", indent=False),
        "arrows": widgets.Checkbox(False, description="arrows from the canonical place", indent=False),
    }
    play = widgets.Play(0, 0, len(viewer.places) - 1, 1, interval=100)
    widgets.jslink((play, "value"), (controls["frame"], "value"))
    image = widgets.Image(format="jpeg", width=viewer.size[1], height=viewer.size[0])

    def draw(_=None) -> None:
        values = {name: control.value for name, control in controls.items()}
        centre = values.pop("x"), values.pop("y")
        _, data = cv2.imencode(
            ".jpg", viewer.picture(Look(centre=centre, **values))[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92]
        )
        image.value = data.tobytes()

    for control in controls.values():
        control.observe(draw, "value")
    draw()
    panel = widgets.VBox([play, *controls.values()])
    return widgets.HBox([image, panel], layout=widgets.Layout(flex_flow="row wrap"))
