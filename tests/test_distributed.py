"""Several processes, one video: torchrun shares the GoPs out, and a killed process costs only its unfinished ones."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch

from stgvlib.codec.load import load_model
from stgvlib.config import PAPER
from stgvlib.errors import StgvError
from stgvlib.fitting import processes
from stgvlib.fitting.fit import fit_plans
from stgvlib.fitting.plan import plan_fits
from stgvlib.fitting.processes import Share
from stgvlib.video.video import video_of
from stgvlib.video.write import write_video

STEPS = ["--preset", "paper", "--profile", "paper", "--device", "cpu", "--gaussians", "40"]
STEPS += ["--coarse-steps", "50", "--motion-steps", "10", "--steps", "250"]
SHORT = replace(PAPER, gop_size=1, gaussians=5, coarse_steps=2, steps=2)


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


@pytest.fixture(scope="module")
def alone(clip, tmp_path_factory):
    """One process's model."""
    output = tmp_path_factory.mktemp("alone") / "m.safetensors"
    fit = [sys.executable, "-m", "stgvlib", "fit", str(clip), str(output), *STEPS]
    subprocess.run(fit, check=True, capture_output=True, env=environment(), timeout=300)
    return load_model(output)[0]


def same(one, output):
    pairs = zip(one.state_dict().values(), load_model(output)[0].state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_two_processes_give_the_model_of_one(clip, alone, tmp_path):
    shared = command(clip, tmp_path / "two.safetensors")
    done = subprocess.run(shared, capture_output=True, text=True, env=environment(), timeout=300)
    assert done.returncode == 0, done.stderr
    assert "4 GoPs" in done.stderr and "shared by 2 processes" in done.stderr
    assert same(alone, tmp_path / "two.safetensors")
    assert not (tmp_path / "two.safetensors.parts").exists()


def wait_for(path, run):
    deadline = time.monotonic() + 200
    while not path.exists() and time.monotonic() < deadline and run.poll() is None:
        time.sleep(0.02)


def test_a_killed_process_costs_its_unfinished_gops(clip, alone, tmp_path):
    """Rank 1 is killed after its first GoP; torchrun starts both again, and what was finished is not fitted again."""
    output, parts = tmp_path / "m.safetensors", tmp_path / "m.safetensors.parts"
    run = subprocess.Popen(command(clip, output, restarts=1), stderr=subprocess.PIPE, text=True, env=environment())
    first = parts / "gop_0001.safetensors"
    wait_for(first, run)
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
    assert same(alone, output)


def test_a_signal_to_one_process_ends_all(clip, alone, tmp_path):
    """And the lock is free: one process goes on where two ended."""
    output, parts = tmp_path / "m.safetensors", tmp_path / "m.safetensors.parts"
    run = subprocess.Popen(command(clip, output), stderr=subprocess.PIPE, text=True, env=environment())
    wait_for(parts / "gop_0001.safetensors", run)
    ranks = [rank_process(run.pid, r) for r in (0, 1)]
    os.kill(ranks[1], signal.SIGTERM)
    _, said = run.communicate(timeout=60)
    assert run.returncode != 0 and not output.exists(), said
    assert not any(os.path.exists(f"/proc/{process}") for process in ranks)
    again = [sys.executable, "-m", "stgvlib", "fit", str(clip), str(output), *STEPS, "--resume"]
    done = subprocess.run(again, capture_output=True, text=True, env=environment(), timeout=300)
    assert done.returncode == 0 and same(alone, output) and not parts.exists(), done.stderr


def shares(world):
    store = torch.distributed.HashStore()
    return [Share(rank, world, store) for rank in range(world)]


def test_processes_agree_and_wait():
    first, *others = shares(3)
    with ThreadPoolExecutor() as pool:
        heard = [pool.submit(share.agree, "fit", "mine") for share in others]
        assert first.agree("fit", {"seed": 0}) == {"seed": 0} and all(h.result(60) == {"seed": 0} for h in heard)
        waiting = pool.submit(first.wait)
        others[0].wait()  # only the first waits
        assert not waiting.done()
        others[1].wait()
        assert waiting.result(60) is None


def test_a_lost_process_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(processes, "SILENCE", 1.0)
    first, second = shares(2)
    with pytest.raises(StgvError, match="rank 1 is gone: run the same command with --resume"):
        first.wait()
    with pytest.raises(StgvError, match="rank 0 is gone"):
        second.agree("fit", None)


def test_processes_that_see_other_frames_are_refused(tmp_path):
    first, second = shares(2)
    plans = [plan_fits(video_of(np.full((2, 16, 24, 3), grey, np.uint8)), SHORT) for grey in (1, 2)]
    with ThreadPoolExecutor() as pool:
        other = pool.submit(fit_plans, plans[1], "cpu", tmp_path / "parts", share=second)
        mine = pool.submit(fit_plans, plans[0], "cpu", tmp_path / "parts", share=first)
        with pytest.raises(StgvError, match="rank 1 has other frames, settings or code than rank 0"):
            other.result(60)
        second.wait()
        with pytest.raises(StgvError, match=r"GoPs \[1\] were not finished"):
            mine.result(60)


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
