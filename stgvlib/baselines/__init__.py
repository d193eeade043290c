"""Every system that the paper compares, by the labels of its tables; `register` adds one of your own
(docs/EXTENDING.md).

Gaussian systems are settings of our own model and trainer (gaussian.py); implicit ones (siren.py, nerv.py, e_nerv.py,
hnerv.py, hnerv_boost.py) have networks of their own and one trainer (inr.py). All get the parameter budget of the
paper's method on the same video. $STGV_SYSTEMS names modules or .py files, separated by commas, that register more
systems on import.
"""

import os

from stgvlib.baselines.gaussian import D2GV, GAUSSIAN_VIDEO, GSVR, TWO_DGS, GaussianSystem
from stgvlib.baselines.inr import E_NERV, HNERV, HNERV_BOOST, NERV, SIREN, InrConfig, NetworkSystem
from stgvlib.baselines.system import SYSTEMS, System, as_system, load_systems, register, unregister
from stgvlib.config import FAST, PAPER, QUALITY, STGV

__all__ = [
    "SYSTEMS",
    "GaussianSystem",
    "InrConfig",
    "NetworkSystem",
    "System",
    "as_system",
    "register",
    "unregister",
]

for _system in (
    NetworkSystem("siren", "SIREN", "an MLP with sines over (x, y, t)", SIREN),
    NetworkSystem("nerv", "NeRV", "a network over the time code", NERV),
    NetworkSystem("e_nerv", "E-NeRV", "NeRV with space and time apart", E_NERV),
    NetworkSystem("hnerv", "HNeRV", "an embedding of each frame and a decoder", HNERV),
    NetworkSystem("hnerv_boost", "HNeRV-Boost", "HNeRV with a decoder that knows the time", HNERV_BOOST),
    GaussianSystem("2dgs", "2DGS", "2D Gaussians for each frame alone", TWO_DGS),
    GaussianSystem("gaussian_video", "GaussianVideo", "planes; position, colour and shape deformed", GAUSSIAN_VIDEO),
    GaussianSystem("gsvr", "GSVR", "planes and a polynomial motion, GoPs cut by motion", GSVR),
    GaussianSystem("d2gv", "D2GV", "all frames first, positional encoding", D2GV),
    GaussianSystem("paper", "STGV", "the paper's full method: key frame, 2D and 3D hash", PAPER),
    GaussianSystem("stgv", "ours, hashes alone", "our trainer, a field of hashes alone", STGV),
    GaussianSystem("quality", "ours (quality)", "our trainer, lattice of motion, fading, grey Gaussians", QUALITY),
    GaussianSystem("fast", "ours (fast)", "`quality` in 0.3 of its deformation steps, higher rates", FAST),
):
    register(_system)

if os.environ.get("STGV_SYSTEMS"):
    os.environ["STGV_SYSTEMS"] = load_systems(os.environ["STGV_SYSTEMS"])  # notebooks and workers run elsewhere
