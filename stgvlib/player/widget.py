"""Play a fitted model in a notebook: `view(model)`.

The widget runs the modules of the page, so zooming and scrubbing ask nothing of Python. The file goes to the browser as
a message, not as a trait: a saved notebook holds a still picture and no video.
"""

import base64
from pathlib import Path

from stgvlib.errors import StgvError
from stgvlib.model.video_model import VideoModel
from stgvlib.player.bundle import script, source
from stgvlib.player.page import playable, video_type

START = "export default { render: modules.start.renderWidget };\n"


def view(
    model: VideoModel | str | Path,
    video: str | Path | None = None,
    height: int = 520,  # px
):
    """A widget that plays a model, or the file of one (.safetensors or .stgv), in the browser with WebGL2.

    A model that is no .stgv file is rounded to the codec's usual steps. Needs the extra "notebooks".

    Args:
        model: A fitted model, or its file.
        video: The video that was fitted, in a format that browsers play: for a split picture, an error map and PSNR.
        height: Of the player, in px.

    Raises StgvError for a model without frames, for files that cannot be read, and where anywidget is missing.

    Examples:
        >>> from stgvlib import PAPER, VideoModel, view
        >>> widget = view(VideoModel(PAPER, num_frames=[2], size=(16, 24), count=5))
        >>> sorted(widget._repr_mimebundle_()[0])[1:]  # what a saved notebook shows
        ['image/jpeg', 'text/plain']
    """
    try:
        import anywidget
        import traitlets
    except ImportError as error:
        raise StgvError("view needs anywidget: pip install 'stgvlib[notebooks]'") from error
    if height < 240:
        raise StgvError(f"height must be at least 240 px, got {height}")
    name = Path(model).with_suffix(".stgv").name if isinstance(model, (str, Path)) else "model.stgv"
    data, poster = playable(model)
    buffers, about = [data], {"name": name, "video": None}
    if video is not None:
        try:
            buffers.append(Path(video).read_bytes())
        except OSError as error:
            raise StgvError(f"cannot read {video}: {error.strerror or error}") from error
        about["video"] = video_type(Path(video))

    class PlayerWidget(anywidget.AnyWidget):
        _esm = script() + START
        _css = source("player.css")
        height = traitlets.Int(520).tag(sync=True)

        def _repr_mimebundle_(self, **kwargs):
            shown, metadata = super()._repr_mimebundle_(**kwargs)
            still = base64.b64encode(poster).decode()
            return shown | {"text/plain": f"A player of {name}", "image/jpeg": still}, metadata

    widget = PlayerWidget(height=height)
    # Each view asks once, and knows its answer by the number that it sent.
    widget.on_msg(lambda _, content, __: widget.send(about | {"to": content.get("from")}, buffers))
    return widget
