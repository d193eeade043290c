"""The `stgv` command; `stgv --help` lists what it does. Bad input gives one line and exit status 2; Ctrl-C gives 130.

What a command needs is imported inside it, so that --help and a typing error answer at once.
"""

import json
import math
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

import stgvlib
from stgvlib.codec.steps import Steps
from stgvlib.config import preset as preset_named
from stgvlib.config import profile as profile_named
from stgvlib.config import scaled_steps
from stgvlib.errors import StgvError
from stgvlib.files import check_writable

if TYPE_CHECKING:
    from stgvlib.video.video import Video

DESCRIPTION = "Videos as deformed 2D Gaussians: fit, render, judge, compress. --version prints the version."
STEPS = Steps()
Positional = tyro.conf.Positional
Device = Annotated[str, tyro.conf.arg(help="auto, cpu, cuda or cuda:K")]
_Json = Annotated[bool, tyro.conf.arg(name="json", help="Print one JSON object.")]


def fit(
    input: Positional[str],
    output: Positional[Path],
    /,
    preset: Literal["stgv", "fast", "paper"] = "stgv",
    profile: Literal["auto", "smoke", "quick", "paper"] = "auto",
    frames: int | None = None,
    gop_size: int | None = None,
    gaussians: int | None = None,
    coarse_steps: int | None = None,
    motion_steps: int | None = None,
    steps: int | None = None,
    size: str | None = None,
    mask: str | None = None,
    huber: float | None = None,
    device: Device = "auto",
    seed: int = 0,
    resume: bool = False,
) -> None:
    """Fit a video and write a model.

    Every finished GoP is kept in OUTPUT.parts until the model is written, so an interrupted fit goes on with --resume.
    On K GPUs: torchrun --nproc-per-node K -m stgvlib fit ... (each process takes its share of the GoPs).

    Args:
        input: Video file, raw .yuv with its size in the name, folder of frames, or a dataset (bunny, davis/cows ...).
        output: Model to write, ending in .safetensors.
        preset: stgv is ours, fast is ours with a seventh of its deformation steps, paper is the method as published.
        profile: How many steps, and how large: smoke (30 % size), quick (50 % size) or paper (all).
            auto takes paper on a GPU and quick on a CPU.
        frames: Fit only the first frames.
        gop_size: Frames of a GoP, which share one set of Gaussians; unset, the preset's: 10 for paper; 5, 8 or 16 for
            stgv and fast, whichever short trials on this video find best (a tenth to a third of the time). A new scene
            begins a new GoP.
        gaussians: Gaussians a GoP; unset, as many as the paper's parameter budget gives.
        coarse_steps: Steps of the coarse (key frame) stage; unset, the preset's times the profile's part.
        motion_steps: Steps in which the field learns to follow optical flow, before the deformation stage; unset, the
            preset's times the profile's part: none for paper.
        steps: Steps of the deformation stage; unset, the preset's times the profile's part.
        size: Resize frames to HEIGHTxWIDTH; unset, what the profile says.
        mask: Folder of pictures or video, one frame for each of the input's, white where pixels are missing: they are
            filled along optical flow before the fit or, without motion steps, left out of its loss.
        huber: For frames with dust, dropouts or dead pixels: differences above this part of the brightness range count
            linearly, not squared (Huber loss), so the fit leaves such pixels out; 0.1 suits most. Unset: all squared.
        seed: Random seed.
        resume: Take over the GoPs that an interrupted fit finished.
    """
    import shutil

    from stgvlib.device import device_name, fallback_reason, resolve_device, select_device
    from stgvlib.fitting.fit import fit_plans
    from stgvlib.fitting.plan import describe, plan_fits
    from stgvlib.fitting.processes import join_torchrun
    from stgvlib.fitting.progress import ProgressBar
    from stgvlib.model.model_file import save_model

    share = join_torchrun()
    if share and device in ("auto", "cuda") and resolve_device(device).type == "cuda":
        device = f"cuda:{share.local_rank}"
    target = select_device(device)
    if device == "auto" and (why := fallback_reason()):
        _say(f"fitting on the CPU: {why}")
    if output.suffix != ".safetensors":
        raise StgvError(f"output must end in .safetensors, got {output.name}")
    check_writable(output)
    to = profile_named(("paper" if target.type == "cuda" else "quick") if profile == "auto" else profile)
    config = scaled_steps(preset_named(preset), to)
    changes = {"gop_size": gop_size, "gaussians": gaussians, "huber": huber}
    changes |= {"coarse_steps": coarse_steps, "motion_steps": motion_steps, "steps": steps}
    config = replace(config, **{k: v for k, v in changes.items() if v is not None})
    plans = plan_fits(_input(input, frames, size, mask, to.scale), config, seed)
    first = share is None or share.rank == 0
    processes = f", shared by {share.world} processes" if share else ""
    if first:
        _say(f"{describe(plans)}, preset {preset}, profile {to.name}, on {device_name(target)}{processes}")
    parts = output.with_name(output.name + ".parts")
    try:
        with ProgressBar("fit" if first else f"fit, rank {share.rank}") as bar:
            resume = resume or bool(share and share.restarted)
            result = fit_plans(plans, target, parts, resume, bar, share)
    except KeyboardInterrupt:
        done = len(list(parts.glob("gop_*.safetensors")))
        _say(f"interrupted; finished GoPs that are kept: {done}; run the same command with --resume")
        raise
    if not first:
        return
    seconds = {k: round(v, 2) for k, v in result.seconds.items()}
    save_model(result.model, output, fps=plans[0].video.fps, seed=seed, seconds=seconds, device=device_name(target))
    shutil.rmtree(parts, ignore_errors=True)
    _say(f"wrote {output}: {result.model.num_parameters():,} parameters, {output.stat().st_size / 1e6:.1f} MB")


def _input(name: str, frames: int | None, size: str | None, mask: str | None, scale: float) -> "Video":
    """The video to fit, as the options of `fit` see it."""
    from stgvlib.video.datasets import open_input
    from stgvlib.video.holes import read_mask

    video = open_input(name)
    if frames is not None:
        if frames > video.num_frames:
            raise StgvError(f"{name} has {video.num_frames} frames, --frames asked for {frames}")
        video = video.with_(limit=frames)
    video = video.with_(resize=_size(size)) if size else video.scaled(scale)
    return video.with_(missing=read_mask(mask, video, frames)) if mask else video


def render(
    model: Positional[Path],
    output: Positional[Path],
    /,
    scale: float = 1.0,
    fps: float | None = None,
    over: str | None = None,
    mask: str | None = None,
    device: Device = "auto",
) -> None:
    """Render a model to an .mp4 or .y4m file or to a folder of PNG frames, or repair a video with it.

    Args:
        model: Model that `stgv fit` or `stgv encode` wrote.
        output: Name ending in .mp4 or .y4m, or a folder.
        scale: Size of the output relative to the fitted video; the Gaussians are resampled, not the pixels.
        fps: Frames a second of the file; unset, those of the fitted video.
        over: The video that was fitted: its frames are kept but for values that the model has more than a tenth of the
            brightness range away (after `stgv fit --huber`), or but for the pixels of --mask.
        mask: With --over: what was given to `stgv fit --mask`.
    """
    from stgvlib.codec.load import load_model
    from stgvlib.device import resolve_device
    from stgvlib.model.decoder import Decoder
    from stgvlib.model.resample import check_scale
    from stgvlib.video.datasets import as_fitted
    from stgvlib.video.holes import composited, read_mask
    from stgvlib.video.write import write_video

    if mask and not over:
        raise StgvError("--mask says which pixels of --over are replaced: give the video that was fitted with --over")
    if over and scale != 1:
        raise StgvError(f"--over keeps frames as large as they were fitted: leave out --scale {scale:g}")
    if fps is not None and not 0 < fps <= 1000:
        raise StgvError(f"fps must be above 0 and at most 1000, got {fps}")
    fitted, about = load_model(model, resolve_device(device))
    check_scale(scale, fitted.size)
    check_writable(output)
    frames = (frame.cpu().numpy() for frame in Decoder(fitted, scale))
    if over:
        given = as_fitted(over, sum(fitted.num_frames), fitted.size)
        missing = read_mask(mask, given, given.num_frames) if mask else [None] * given.num_frames
        frames = (composited(*three) for three in zip(frames, given, missing, strict=True))
    try:
        count = write_video(output, frames, fps or about.get("fps", 25.0))
    except OSError as error:
        raise StgvError(f"cannot write {output}: {error.strerror or error}") from error
    _say(f"wrote {count} frames to {output}")
    _tell_damage(model, about)


def encode(
    model: Positional[Path],
    output: Positional[Path],
    /,
    video: str | None = None,
    target_bpp: float | None = None,
    quality: float | None = None,
    fine_tuning: int | None = None,
    device: Device = "auto",
    steps: tyro.conf.OmitArgPrefixes[Steps] = STEPS,
) -> None:
    """Compress a model to an .stgv file, a group at a time; its size is the bit rate.

    With --video the model is fine-tuned for its file, which is smaller then at the same quality.

    Args:
        model: Model that `stgv fit` wrote.
        output: Name ending in .stgv.
        video: The video that was fitted: fine-tune for it, with learned steps, rate in the loss and pruning.
        target_bpp: Bits a pixel that the file may have. Without --video, all steps are scaled alike to meet it.
        quality: PSNR in dB that fine-tuning aims at, instead of a size; takes up to three times as long.
        fine_tuning: Steps of fine-tuning; unset, 22,000 on a GPU and, as a fit's, a tenth of that on a CPU.
        steps: How coarsely each attribute is rounded without --video.
    """
    from stgvlib.codec import bitstream
    from stgvlib.codec.fine_tune import FINE_TUNING, compress
    from stgvlib.codec.load import load_model
    from stgvlib.device import resolve_device
    from stgvlib.fitting.progress import ProgressBar
    from stgvlib.video.datasets import as_fitted

    if output.suffix != ".stgv":
        raise StgvError(f"output must end in .stgv, got {output.name}")
    for name, value in (("target_bpp", target_bpp), ("quality", quality)):
        if value is not None and not value > 0:
            raise StgvError(f"{name} must be above 0, got {value}")
    if quality is not None and (video is None or target_bpp is not None):
        raise StgvError("quality needs --video, and excludes --target-bpp")
    if video is not None and steps != STEPS:
        raise StgvError("with --video steps are learned: leave them out")
    if fine_tuning is not None and fine_tuning < 1:
        raise StgvError(f"fine_tuning must be at least 1, got {fine_tuning}")
    check_writable(output)
    target = resolve_device(device if video else "cpu")
    fitted, about = load_model(model, target)
    fps, pixels = about.get("fps", 25.0), math.prod(fitted.size) * sum(fitted.num_frames)
    if video is not None:
        clip = as_fitted(video, sum(fitted.num_frames), fitted.size)
        part = profile_named("paper" if target.type == "cuda" else "quick").steps
        tuning = fine_tuning or round(part * FINE_TUNING)
        with ProgressBar("encode") as bar:
            made = compress(clip, fitted, target_bpp, quality, fine_tuning=tuning, progress=bar)
        fitted, steps = made.model, made.steps
    elif target_bpp is not None:
        steps = bitstream.steps_for(fitted, int(target_bpp * pixels / 8), steps, fps)
    size = bitstream.encode(fitted, output, steps, fps)
    _say(f"wrote {output}: {size:,} bytes, {8 * size / pixels:.4f} bits a pixel")


def decode(
    input: Positional[Path], output: Positional[Path], /, fps: float | None = None, device: Device = "auto"
) -> None:
    """Decode an .stgv file to an .mp4 or .y4m file or to a folder of PNG frames.

    A damaged group costs its own frames, which are black; the exit status is then 2.

    Args:
        input: File that `stgv encode` wrote.
        output: Name ending in .mp4 or .y4m, or a folder.
        fps: Frames a second of the file; unset, those of the fitted video.
    """
    render(input, output, fps=fps, device=device)


def evaluate(
    model: Positional[Path], input: Positional[str], /, json_output: _Json = False, device: Device = "auto"
) -> None:
    """Judge a model against the video it was fitted to: PSNR, MS-SSIM, parameters, decoding speed.

    Args:
        model: Model that `stgv fit` or `stgv encode` wrote.
        input: The video that was fitted; it is cropped in time and resized to the model.
    """
    from stgvlib.codec.load import load_model
    from stgvlib.device import resolve_device
    from stgvlib.model.judge import judge
    from stgvlib.video.datasets import as_fitted

    fitted, about = load_model(model, resolve_device(device))
    result = judge(fitted, as_fitted(input, sum(fitted.num_frames), fitted.size))
    if "bytes" in about:
        size = model.stat().st_size
        result |= {"bytes": size, "bits_per_pixel": 8 * size / (math.prod(fitted.size) * result["frames"])}
    if json_output:
        print(json.dumps(result))
        return
    similarity = "none: a side is 160 px or less" if result["ms_ssim"] is None else f"{result['ms_ssim']:.4f}"
    print(f"PSNR        {result['psnr']:.2f} dB (8-bit {result['psnr_8bit']:.2f} dB)")
    print(f"MS-SSIM     {similarity}")
    print(f"parameters  {result['parameters']:,}")
    print(f"frames      {result['frames']} of {result['width']}x{result['height']}")
    if "bytes" in result:
        print(f"bit rate    {result['bits_per_pixel']:.4f} bits a pixel ({result['bytes']:,} bytes)")
    print(f"decoding    {result['decode_fps']:.1f} frames a second ({result['fps_protocol']})")


def info(file: Positional[Path | None] = None, /, system: bool = False, json_output: _Json = False) -> None:
    """Say what a model file holds, or what this system can run.

    Args:
        file: Model that `stgv fit` or `stgv encode` wrote.
        system: Tell the device, the kernels that would run and why, and library versions.
    """
    from stgvlib.codec.load import load_model
    from stgvlib.device import system_info

    if system == (file is not None):
        raise StgvError("info takes a model file or --system")
    if system:
        result = system_info()
    else:
        fitted, about = load_model(file)
        size = file.stat().st_size
        result = {
            "preset": fitted.config.preset,
            "frames": sum(fitted.num_frames),
            "gops": len(fitted.num_frames),
            "width": fitted.size[1],
            "height": fitted.size[0],
            "fps": about.get("fps"),
            "gaussians_a_gop": fitted.count,
            "parameters": fitted.num_parameters(),
            "bytes": size,
            "bits_per_pixel": round(8 * size / (math.prod(fitted.size) * sum(fitted.num_frames)), 5),
        }
        more = ("bytes_by_section", "steps", "damaged") if "bytes" in about else ("seconds", "device", "config")
        result |= {key: about.get("bytes" if key == "bytes_by_section" else key) for key in more}
    if json_output:
        print(json.dumps(result))
        return
    for key, value in result.items():
        if isinstance(value, dict):
            value = ", ".join(f"{k} {v}" for k, v in value.items() if not isinstance(v, dict))
        print(f"{key:16} {value}")


def fetch(group: Positional[Literal["davis", "uvg"]], /) -> None:
    """Download a dataset of the paper into data/. An interrupted download resumes.

    Args:
        group: davis (DAVIS 2017, full resolution) or uvg (seven 1080p sequences): gigabytes each.
    """
    from stgvlib.video import datasets

    for path in datasets.fetch(group):
        _say(f"{path}")


def _tell_damage(path: Path, about: dict) -> None:
    if damaged := about.get("damaged"):
        told = "; ".join(f"GoP {g} {why}" for g, why in damaged.items())
        raise StgvError(f"{path} is damaged: {told}. Their frames are black, all others are whole")


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.lower().partition("x")
    if not (height.isdigit() and width.isdigit() and int(height) and int(width)):
        raise StgvError(f"size must be HEIGHTxWIDTH such as 360x640, got {text!r}")
    return int(height), int(width)


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def main(arguments: list[str] | None = None) -> None:
    """Run one subcommand; exits with 0, 2 (bad input) or 130 (Ctrl-C)."""
    commands = {
        "fit": fit,
        "render": render,
        "encode": encode,
        "decode": decode,
        "eval": evaluate,
        "info": info,
        "fetch": fetch,
    }
    if (sys.argv[1:] if arguments is None else arguments) == ["--version"]:
        print(f"stgv {stgvlib.__version__}")
        return
    try:
        tyro.extras.subcommand_cli_from_dict(
            commands,
            prog="stgv",
            description=DESCRIPTION,
            args=arguments,
        )
    except StgvError as error:
        _say(f"stgv: {error}")
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:  # a disk that is full, a file that vanished
        _say(f"stgv: {error.filename or 'a file'} cannot be read or written: {error.strerror or error}")
        sys.exit(2)
