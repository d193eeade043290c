"""Rate-distortion curves that others have published, as data with their sources. Nothing here was run by us.

They were read off figures, so the last digit is uncertain. What could not be read is listed with the reason.
"""

from dataclasses import dataclass

from stgvlib.repro.paper import SOURCE


@dataclass(frozen=True)
class PublishedCurve:
    """Points (bits a pixel, PSNR in dB) of a system on a dataset, at the frame size of its authors."""

    label: str
    source: str
    dataset: str
    size: tuple[int, int]  # height, width in px
    points: tuple[tuple[float, float], ...]


PUBLISHED = (
    PublishedCurve(
        "HNeRV-Boost",
        "Boosting Neural Representations for Videos with a Conditional Decoder, arXiv 2402.18152, figure on Bunny",
        "bunny",
        (720, 1280),
        ((0.0329, 34.54), (0.0524, 36.92), (0.1014, 39.58)),
    ),
)
NOT_READ = {  # figures of the paper: why they have no points here
    f"{SOURCE}, {figure}": "not read off: the paper's text gives no number of it, and its picture was not at hand"
    for figure in ("Fig. 5 (rate and distortion on Bunny)", "Fig. 9 (numbers of Gaussians)")
}
