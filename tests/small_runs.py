"""Runs of seconds: the smoke profile at a third of its size and a twentieth of its steps."""

from stgvlib.config import Profile
from stgvlib.repro import fits

TINY = Profile("smoke", scale=0.1, frames=3, coarse_steps=0.004, steps=0.0005)


def run(name, **options):
    return fits.run(name, "smoke", "cpu", show_progress=False, **options)
