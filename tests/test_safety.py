"""The `stgv` command loses nothing and harms nothing: outputs, interrupts, full disks, busy and read-only machines.

| case | source | test |
|---|---|---|
| output is the input, or exists | FAULTS 2, 10 | test_nothing_is_overwritten_unasked |
| closed standard error, long names, SIGTERM and SIGHUP while rendering | FAULTS 10 | test_streams_and_signals |
| memory of `eval` and `render --over` | FAULTS 9 | test_eval_and_repair_hold_a_window_of_frames |
| threads that spin | FAULTS 12 | test_threads_wait_without_spinning |
| read-only installation and home | FAULTS 11, CASES C | test_a_read_only_home_only_costs_the_cache |
"""

import os
import resource
import signal
import subprocess
import sys
import time
import tracemalloc
from dataclasses import replace

import numpy as np
from command import FAST, refused, stgv

from stgvlib.config import PAPER, FieldConfig
from stgvlib.model.model_file import save_model
from stgvlib.model.video_model import VideoModel
from stgvlib.video.video import open_video
from stgvlib.video.write import write_video


def test_a_full_disk_loses_nothing_and_leaves_nothing(model, clip, tmp_path):
    """No file may grow past 20 kB: what a full disk looks like to the writer."""
    small = {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))}
    out = tmp_path / "x.safetensors"
    out.write_bytes(b"what was there before")
    line = refused("fit", clip, out, *FAST, "--overwrite", **small)
    assert "cannot write" in line and out.read_bytes() == b"what was there before"
    assert [p.name for p in (tmp_path / "x.safetensors.parts").iterdir()] == ["fit.json"]
    line = refused(
        "fit", clip, out, *FAST, "--overwrite", env={**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "cache")}, **small
    )
    assert "cannot be read or written" in line  # compiled code cannot be cached either


def test_ctrl_c_keeps_finished_gops_and_resume_goes_on(tmp_path):
    rng = np.random.default_rng(0)
    write_video(tmp_path / "clip", rng.integers(0, 255, (32, 16, 24, 3), np.uint8))
    out = tmp_path / "m.safetensors"
    fit = [sys.executable, "-m", "stgvlib", "fit", str(tmp_path / "clip"), str(out), "--device", "cpu"]
    fit += "--profile paper --gaussians 40 --coarse-steps 100 --motion-steps 20 --steps 1500".split()
    running = subprocess.Popen(fit, stderr=subprocess.PIPE, text=True)
    parts = tmp_path / "m.safetensors.parts"
    for _ in range(4800):
        if (parts / "gop_0000.safetensors").exists():
            break
        time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    _, said = running.communicate(timeout=60)
    assert running.returncode == 130 and "finished GoPs: 1, trials: 2; add --resume" in said, said
    assert not out.exists()
    again = subprocess.run([*fit, "--resume"], capture_output=True, text=True)
    assert again.returncode == 0 and out.exists() and not parts.exists(), again.stderr


def test_nothing_is_overwritten_unasked(model, clip, tmp_path):
    video = tmp_path / "clip.mp4"
    write_video(video, open_video(clip).read())
    before = video.read_bytes()
    (tmp_path / "link.mp4").symlink_to(video)
    for over in ((), ("--over", video), ("--over", video, "--overwrite")):
        for name in ("clip.mp4", "link.mp4"):
            told = refused("render", model, tmp_path / name, *over)
            assert "is the input itself" in told if over else "add --overwrite" in told
    frames = sorted((f.name, f.read_bytes()) for f in clip.iterdir())
    assert "is the input itself" in refused("render", model, clip, "--over", clip, "--overwrite")
    assert "add --overwrite" in refused("render", model, clip)
    assert "add --overwrite" in refused("fit", clip, model, *FAST)
    assert video.read_bytes() == before and sorted((f.name, f.read_bytes()) for f in clip.iterdir()) == frames
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "00000.png").write_bytes((clip / "00000.png").read_bytes().replace(b"stgvlib", b"gimp-2 "))
    assert "pictures that stgvlib did not write (00000.png)" in refused("render", model, mine, "--overwrite")
    assert stgv("render", model, video, "--overwrite").returncode == 0 and video.read_bytes() != before
    assert "no regular file" in refused("render", model, _fifo(tmp_path / "pipe.mp4"), "--overwrite")
    (tmp_path / "out.gif").mkdir()  # a folder may have any name
    assert stgv("render", model, tmp_path / "out.gif").returncode == 0


def test_a_dataset_is_an_input_like_any_other(model, clip, tmp_path, monkeypatch):
    """Its file is never written to, however it was named."""
    from stgvlib.video.datasets import DATASETS, Dataset

    monkeypatch.setitem(DATASETS, "mine", Dataset("mine", (str(clip),), 5, 100))
    assert "is the input itself" in refused("render", model, clip, "--over", "mine", "--overwrite")


def _fifo(path):
    os.mkfifo(path)
    return path


def test_streams_and_signals(model, tmp_path):
    """A closed standard error, a name that leaves no room for a partial file's, and an end in the middle."""
    run = f"{sys.executable} -m stgvlib render {model} {tmp_path}/a.mp4 2>&-"
    assert subprocess.run(run, shell=True).returncode == 0 and open_video(tmp_path / "a.mp4").num_frames == 5
    assert stgv("render", model, tmp_path / ("n" * 236 + ".mp4")).returncode == 0
    assert "longer than 240 bytes" in refused("render", model, tmp_path / ("n" * 237 + ".mp4"))
    for number in (signal.SIGTERM, signal.SIGHUP):
        command = [sys.executable, "-m", "stgvlib", "render", model, tmp_path / "large.mp4", "--scale", "120"]
        running = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        for _ in range(2400):
            if running.poll() is not None or list(tmp_path.glob(".stgv-*")):
                break
            time.sleep(0.05)
        running.send_signal(number)
        _, said = running.communicate(timeout=60)
        assert running.returncode == 128 + number and "stopped" in said and "Traceback" not in said, said
        assert not list(tmp_path.glob(".stgv-*")) and not (tmp_path / "large.mp4").exists()


def test_a_read_only_home_only_costs_the_cache(tmp_path):
    """Compiled code is cached beside the package, else in a folder of the user; where neither can be written, in a
    temporary one. A package that cannot be written is stood for by os.access, since root may write everywhere."""
    code = "import os; os.access = lambda path, mode: WHERE; import stgvlib"
    code += "; told = os.environ['NUMBA_CACHE_DIR']; print(told, os.path.isdir(told))"

    def told(where):
        command = [sys.executable, "-c", code.replace("WHERE", where)]
        environment = os.environ | {"STGV_CACHE": str(tmp_path)}
        return subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout.split()

    assert told(f"str(path) == {str(tmp_path)!r}") == [str(tmp_path), "True"]
    folder, there = told("False")
    assert os.path.basename(folder).startswith("stgvlib-") and there == "True" and not os.path.exists(folder)


def test_eval_and_repair_hold_a_window_of_frames(tmp_path):
    """FAULTS 9: traced are all arrays of NumPy, frames among them."""
    static = replace(PAPER, steps=0, field=FieldConfig(encoding="none"))
    peaks = {}
    for frames in (20, 80):
        model, clip = tmp_path / f"{frames}.safetensors", tmp_path / f"{frames}_320x200.yuv"
        save_model(VideoModel(static, [frames], (200, 320), 5), model)
        clip.write_bytes(bytes(200 * 320 * 3 // 2 * frames))
        for command in (["eval", model, clip], ["render", model, tmp_path / f"{frames}", "--over", clip]):
            tracemalloc.start()
            assert stgv(*command, "--device", "cpu").returncode == 0
            peaks[command[0], frames] = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
    for command in ("eval", "render"):
        assert peaks[command, 80] - peaks[command, 20] < 5 * 200 * 320 * 3, peaks


def test_threads_wait_without_spinning():
    """FAULTS 12: unless the user says otherwise."""
    code = "import stgvlib, os; print(os.environ['OMP_WAIT_POLICY'])"
    for given, expected in (({}, "passive"), ({"OMP_WAIT_POLICY": "active"}, "active")):
        environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"} | given
        ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
        assert ran.stdout.strip() == expected
