"""Fits that are killed with -9 at random moments and resumed: is the model that of an uninterrupted fit, bit for bit?
Usage: python benchmarks/kill_and_resume.py [kills] [kills with torchrun]

A fit of 24 small frames chooses its GoP length in trials. It is killed at a moment drawn from its duration, goes on
with --resume and may be killed again, until it ends; then the next fit starts. With torchrun the
victim is one of two processes, the launcher or all three. Ends with status 1 at the first model that differs.
"""

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from common import report

from stgvlib.codec.load import load_model
from stgvlib.video.write import write_video

SETTINGS = "--device cpu --profile paper --gaussians 20 --coarse-steps 40 --motion-steps 8 --steps 240 --resume".split()
TORCHRUN = "-m torch.distributed.run --nproc-per-node 2 --rdzv-backend c10d --rdzv-endpoint localhost:0".split()


def begin(folder: Path, shared: bool) -> subprocess.Popen:
    """A fit that has just locked its output, or has ended."""
    launch = [sys.executable, *(TORCHRUN if shared else []), "-m", "stgvlib", "fit"]
    command = [*launch, str(folder / "clip"), str(folder / "m.safetensors"), *SETTINGS]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    began, lock = time.time(), folder / "m.safetensors.parts" / "lock"
    with open(folder / "said", "w") as said:
        run = subprocess.Popen(command, stderr=said, stdout=said, env=environment)
    while run.poll() is None:
        with suppress(FileNotFoundError):
            if lock.stat().st_mtime > began:  # and not the one of a fit that was killed
                break
        time.sleep(0.01)
    return run


def kill(run: subprocess.Popen, shared: bool, draw: random.Random) -> bool:
    """Kill one or all processes of a fit, and wait until none is left; False where it has just ended."""
    ranks = []
    with suppress(FileNotFoundError):
        ranks = [int(child) for task in Path(f"/proc/{run.pid}/task").iterdir() for child in children(task)]
    if shared and len(ranks) < 2:
        return run.wait() != 0
    victims = [[run.pid], [run.pid, *ranks], *([rank] for rank in ranks)] if shared else [[run.pid]]
    for victim in draw.choice(victims):
        with suppress(ProcessLookupError):
            os.kill(victim, signal.SIGKILL)
    run.wait()
    while any(Path(f"/proc/{rank}").exists() for rank in ranks):
        time.sleep(0.05)
    return True


def children(task: Path) -> list[str]:
    return (task / "children").read_text().split()


def main(kills: int, shared: bool) -> None:
    draw, killed, fits = random.Random(0), 0, 0
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        output = folder / "m.safetensors"
        y, x = np.mgrid[:24, :32]
        frames = [np.stack([x * 4 + t, y * 5, x + 2 * t], -1).clip(0, 255).astype(np.uint8) for t in range(24)]
        write_video(folder / "clip", frames)
        run, began = begin(folder, shared=False), time.perf_counter()
        if run.wait():
            sys.exit((folder / "said").read_text())
        duration, whole = time.perf_counter() - began, load_model(output)[0].state_dict()
        output.unlink()
        landed = True
        while killed < kills or landed:
            run, landed = begin(folder, shared), False
            if killed < kills:
                time.sleep(draw.uniform(0, duration))
                landed = run.poll() is None and kill(run, shared, draw)
                killed += landed
            if not landed and run.wait():
                sys.exit((folder / "said").read_text())
            if output.exists():
                resumed = load_model(output)[0].state_dict()
                if not all(torch.equal(resumed[name], whole[name]) for name in whole):
                    sys.exit(f"after {killed} kills the model differs")
                output.unlink()
                fits += 1
    about = f"{'torchrun, 2 processes' if shared else '1 process'}, {fits} fits"
    report("kills -9, resumed bit-equal", about, torch.device("cpu"), killed, "kills")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20, shared=False)
    main(int(sys.argv[2]) if len(sys.argv) > 2 else 8, shared=True)
