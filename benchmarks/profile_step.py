"""Where the time of a deformation step goes, kernel by kernel: 13 GoPs of 20,000 Gaussians on Bunny, after a short fit.

Usage: python benchmarks/profile_step.py          measure (needs a GPU; issue rate and bandwidth need ncu)
       python benchmarks/profile_step.py table    print the table of docs/PERFORMANCE.md from results.csv, anywhere

Times are of the captured step, from torch's profiler. Under ncu the same kernels run one by one.
"""

import csv
import io
import shutil
import subprocess
import sys
from dataclasses import replace

import torch
from common import RESULTS, report

from stgvlib.config import PAPER, QUALITY
from stgvlib.device import resolve_device
from stgvlib.fitting.batches import load_gops
from stgvlib.fitting.optimizer import captured
from stgvlib.fitting.placement import generator_for, initial_model, sort_gaussians
from stgvlib.fitting.plan import plan_fits
from stgvlib.fitting.stage import Stage
from stgvlib.model.video_model import VideoModel
from stgvlib.video.datasets import load_dataset

METRICS = {
    "smsp__issue_active.avg.pct_of_peak_sustained_active": ("issue slots used", "%"),
    "dram__bytes.sum.per_second": ("DRAM bandwidth", "GB/s"),
    "lts__t_bytes.sum.per_second": ("L2 bandwidth", "GB/s"),
}
ABOUT = "13 GoPs x 20000, bunny 640x1280, quality"


def prepared(device: torch.device):
    """A step of the 13 GoPs in the middle of a fit, and its graph."""
    config = replace(QUALITY, gop_size=PAPER.gop_size, gaussians=20_000, coarse_steps=2000, steps=2000)
    video = load_dataset("bunny")
    (plan,) = plan_fits(video, config)
    config = plan.config
    frames, lengths = load_gops(video, plan.gops, device)
    draws = [generator_for(0, g) for g in range(len(lengths))]
    parts = [initial_model(config, frames[g], n, plan.count, draws[g]) for g, n in enumerate(lengths)]
    model = VideoModel.join(parts).to(device)
    for name in ("coarse", "deformation"):
        for _ in Stage(model, frames, name, generators=draws).run():
            pass
        sort_gaussians(model)
    model.config = replace(config, steps=100_000)
    stage = Stage(model, frames, "deformation")
    step = stage.fused_step()
    return step, captured(step, stage.optimizer, stage.log)


def floors(device_rate: float = 132 * 128 * 1.75e9, tensor: float = 790e12, memory: float = 4.3e12) -> dict[str, float]:
    """Microseconds that operations or bytes alone would take on one H200, for 13 GoPs of 20,000 Gaussians.

    splat: 18 M pixel-Gaussian pairs a GoP at 6 lane instructions. MLP: 15 k and 46 k operations a Gaussian.
    hash: 8 levels of 24 bytes forward, 40 backward. adam: 28 bytes a parameter. project_bin: 100 bytes a Gaussian.
    """
    points, pairs, parameters = 13 * 20_000, 13 * 18e6, 13 * 263_000
    seconds = {
        "splat_mse": 6 * pairs / device_rate,
        "mlp_forward": 15e3 * points / tensor,
        "mlp_backward": 46e3 * points / tensor,
        "hash_forward": 8 * 24 * points / memory,
        "hash_backward": 8 * 40 * points / memory,
        "adam": 28 * parameters / memory,
        "project_bin": 100 * points / memory,
    }
    return {name: 1e6 * value for name, value in seconds.items()}


def table() -> str:
    """The measured rows of a step as Markdown."""
    with open(RESULTS, newline="") as file:
        found = {r["name"]: r for r in csv.DictReader(file) if r["config"] == ABOUT}
    columns = ("issue slots used", "L2 bandwidth", "DRAM bandwidth")
    lines = [
        "| kernel | us | us a GoP | floor, us | issue slots, % | L2, GB/s | DRAM, GB/s |",
        "|---|---|---|---|---|---|---|",
    ]
    kernels = [name for name in found if name.startswith("kernel ")]
    for name in sorted(kernels, key=lambda name: -float(found[name]["value"])):
        kernel, time = name.removeprefix("kernel "), float(found[name]["value"])
        counted = [f"{float(found[f'{c} {kernel}']['value']):.0f}" if f"{c} {kernel}" in found else "" for c in columns]
        floor = f"{floors()[kernel]:.0f}" if kernel in floors() else ""
        lines.append(f"| {kernel} | {time:.1f} | {time / 13:.2f} | {floor} | {' | '.join(counted)} |")
    rest, whole = (float(found[name]["value"]) for name in ("kernels of torch", "step, replayed"))
    lines += [f"| kernels of torch | {rest:.1f} | {rest / 13:.2f} | | | | |"]
    lines += [f"| **step, replayed** | **{whole:.0f}** | **{whole / 13:.1f}** | {sum(floors().values()):.0f} | | | |"]
    about = found["step, replayed"]
    return "\n".join(lines) + f"\n\n{about['device']}, {ABOUT}, commit {about['commit']}, {about['date']}."


def main() -> None:
    if sys.argv[1:] == ["table"]:
        print(table())
        return
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
        report(f"kernel {row.key}", ABOUT, device, row.device_time_total / 20, "us", floors().get(row.key))
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
