"""Where the time of a deformation step goes, kernel by kernel: 13 GoPs of 20,000 Gaussians on Bunny, after a short fit.

Usage: python benchmarks/profile_step.py    (needs a GPU; issue rate and bandwidth need ncu, Nsight Compute)

Times are of the captured step, from torch's profiler. Under ncu the same kernels run one by one.
"""

import csv
import io
import shutil
import subprocess
import sys
from dataclasses import replace

import torch
from common import report

from stgvlib.backend import resolve_device
from stgvlib.config import PAPER, STGV
from stgvlib.datasets import load
from stgvlib.model import VideoModel
from stgvlib.optimizer import FlatOptimizer
from stgvlib.train import _captured, _fused_step, _generator, _initial, _segments, _sort, cut_gops, load_gops, run_stage

METRICS = {
    "smsp__issue_active.avg.pct_of_peak_sustained_active": ("issue slots used", "%"),
    "dram__bytes.sum.per_second": ("DRAM bandwidth", "GB/s"),
    "lts__t_bytes.sum.per_second": ("L2 bandwidth", "GB/s"),
}
ABOUT = "13 GoPs x 20000, bunny 640x1280"


def prepared(device: torch.device):
    """A step of the 13 GoPs in the middle of a fit, and its graph."""
    config = replace(STGV, gop_size=PAPER.gop_size, gaussians=20_000, coarse_steps=2000, steps=2000)
    video = load("bunny")
    frames, lengths = load_gops(video, cut_gops(video, config), device)
    parts = [_initial(config, frames[i], n, 20_000, _generator(0, i)) for i, n in enumerate(lengths)]
    model = VideoModel.join(parts).to(device)
    for stage in ("coarse", "deformation"):
        run_stage(model, frames, stage, lambda *_: None, [_generator(0, i) for i in range(len(lengths))])
        _sort(model)
    optimizer = FlatOptimizer(_segments(model, "deformation", 100_000), config.optimizer)
    losses, counts = torch.zeros(100_000, len(frames), device=device), torch.tensor(model.num_frames, device=device)
    step = _fused_step(model, frames, optimizer, losses, counts, counts * 0 + 3, None, False)
    return step, _captured(step, optimizer, losses)


def main() -> None:
    device = resolve_device("cuda")
    step, advance = prepared(device)
    if "--once" in sys.argv:  # under ncu
        step()
        torch.cuda.synchronize()
        torch.cuda.profiler.start()
        step()
        torch.cuda.synchronize()
        torch.cuda.profiler.stop()
        return
    start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    for _ in range(50):
        advance()
    start.record()
    for _ in range(300):
        advance()
    stop.record()
    stop.synchronize()
    report("step, replayed", ABOUT, device, 1e3 * start.elapsed_time(stop) / 300, "us")
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        for _ in range(20):
            advance()
        torch.cuda.synchronize()
    rows = [r for r in profile.key_averages() if r.device_time_total > 0]
    ours = [r for r in rows if not r.key.startswith(("void ", "Mem"))]
    for row in ours:
        report(f"kernel {row.key}", ABOUT, device, row.device_time_total / 20, "us")
    rest = sum(r.device_time_total for r in rows if r not in ours) / 20
    report("kernels of torch", ABOUT, device, rest, "us")
    if shutil.which("ncu"):
        counters(device)


def counters(device: torch.device) -> None:
    """Issue rate and bandwidth of each kernel from the hardware counters."""
    command = ["ncu", "--csv", "--profile-from-start", "off", "--clock-control", "none"]
    command += ["--metrics", ",".join(METRICS), sys.executable, __file__, "--once"]
    done = subprocess.run(command, capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith('"')]
    for row in csv.DictReader(io.StringIO("\n".join(lines))):
        if row.get("Metric Name") not in METRICS or row["Kernel Name"].startswith("void "):
            continue
        name, unit = METRICS[row["Metric Name"]]
        value = float(row["Metric Value"].replace(",", ""))
        factor = {"Tbyte/s": 1e3, "Mbyte/s": 1e-3, "Kbyte/s": 1e-6, "byte/s": 1e-9}.get(row["Metric Unit"], 1.0)
        report(f"{name} {row['Kernel Name'].split('(')[0]}", ABOUT, device, value * factor, unit)


if __name__ == "__main__":
    main()
