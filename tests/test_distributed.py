"""Several processes, one video: torchrun shares the GoPs out, and a killed process costs only its unfinished ones."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from stgvlib.codec.load import load_model
from stgvlib.video.write import write_video

STEPS = ["--preset", "paper", "--profile", "paper", "--device", "cpu", "--gaussians", "40"]


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip") / "frames"
    y, x = np.mgrid[:24, :32]
    write_video(folder, (np.stack([x * 4 + t, y * 5, x + 2 * t], -1).clip(0, 255).astype(np.uint8) for t in range(40)))
    return folder


def command(clip, output, *more, processes=2, restarts=0):
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
    launch += ["--master-port", "0", "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]
    return [*launch, "--max-restarts", str(restarts), "-m", "stgvlib", "fit", str(clip), str(output), *STEPS, *more]


def environment():
    return os.environ | {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}


def test_two_processes_give_the_model_of_one(clip, tmp_path):
    steps = ["--coarse-steps", "10", "--motion-steps", "5", "--steps", "15"]
    alone = [sys.executable, "-m", "stgvlib", "fit", str(clip), str(tmp_path / "one.safetensors"), *STEPS, *steps]
    subprocess.run(alone, check=True, capture_output=True, env=environment(), timeout=300)
    shared = command(clip, tmp_path / "two.safetensors", *steps)
    done = subprocess.run(shared, capture_output=True, text=True, env=environment(), timeout=300)
    assert done.returncode == 0, done.stderr
    assert "4 GoPs" in done.stderr and "shared by 2 processes" in done.stderr
    one, two = (load_model(tmp_path / f"{name}.safetensors")[0] for name in ("one", "two"))
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values()))
    assert not (tmp_path / "two.safetensors.parts").exists()


def test_a_killed_process_costs_its_unfinished_gops(clip, tmp_path):
    """Rank 1 is killed after its first GoP; torchrun starts both again, and what was finished is not fitted again."""
    steps = ["--coarse-steps", "100", "--motion-steps", "20", "--steps", "500"]
    output, parts = tmp_path / "m.safetensors", tmp_path / "m.safetensors.parts"
    run = subprocess.Popen(
        command(clip, output, *steps, restarts=1), stderr=subprocess.PIPE, text=True, env=environment()
    )
    first = parts / "gop_0001.safetensors"
    deadline = time.monotonic() + 200
    while not first.is_file() and time.monotonic() < deadline and run.poll() is None:
        time.sleep(0.02)
    written = first.stat().st_mtime_ns
    os.kill(rank_process(run.pid, 1), signal.SIGKILL)
    kept = {}
    while run.poll() is None:
        try:
            kept |= {p.name: p.stat().st_mtime_ns for p in parts.glob("gop_*")}
        except FileNotFoundError:  # the parts are joined and deleted
            pass
        time.sleep(0.02)
    assert run.returncode == 0, run.stderr.read()
    assert kept["gop_0001.safetensors"] == written
    assert load_model(output)[0].num_frames == [10, 10, 10, 10]


def rank_process(launcher: int, rank: int) -> int:
    """The process that torchrun started as `rank`."""
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                parent = int(open(f"/proc/{entry}/stat").read().rsplit(")", 1)[1].split()[1])
                variables = open(f"/proc/{entry}/environ", "rb").read().split(b"\0")
            except OSError:
                continue
            if parent == launcher and f"RANK={rank}".encode() in variables:
                return int(entry)
    raise AssertionError(f"rank {rank} is not running")
