"""Every system that the paper compares, by the names of its tables, with the configuration that `experiments` fits.

Gaussian systems are settings of our own model and trainer (gaussian.py); implicit ones (siren.py, nerv.py, e_nerv.py,
hnerv.py) have networks of their own and one trainer (inr.py). All get the parameters that the paper's method has on the
same video.
"""

from stgvlib.baselines.gaussian import D2GV, GAUSSIAN_VIDEO, GSVR, TWO_DGS
from stgvlib.baselines.inr import E_NERV, HNERV, NERV, SIREN
from stgvlib.config import FAST, PAPER, STGV

SYSTEMS = {  # run name -> (name in the tables, configuration)
    "siren": ("SIREN", SIREN),
    "nerv": ("NeRV", NERV),
    "e_nerv": ("E-NeRV", E_NERV),
    "hnerv": ("HNeRV", HNERV),
    "2dgs": ("2DGS", TWO_DGS),
    "gaussian_video": ("GaussianVideo", GAUSSIAN_VIDEO),
    "gsvr": ("GSVR", GSVR),
    "d2gv": ("D2GV", D2GV),
    "paper": ("STGV", PAPER),
    "stgv": ("STGV, our preset", STGV),
    "fast": ("STGV, our preset, fast", FAST),
}
