"""The `stgv` command; `stgv --help` lists what it does. Bad input gives one line and exit status 2.

What a command needs is imported inside it, so that --help and a typing error answer at once.
"""

import json
import math
import os
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Literal

import tyro

import stgvlib
from stgvlib.cli_fit import Device, Overwrite, Positional, Threads, files_of, fit, say
from stgvlib.cli_player import export, view
from stgvlib.codec.steps import Steps
from stgvlib.config import profile as profile_named
from stgvlib.errors import StgvError, size_text
from stgvlib.files import check_output, write_atomically

DESCRIPTION = "Videos as deformed 2D Gaussians: fit, render, judge, compress, play. --version prints the version."
STEPS = Steps()
_Json = Annotated[bool, tyro.conf.arg(name="json", help="Print one JSON object.")]


def render(
    model: Positional[Path],
    output: Positional[Path],
    /,
    scale: float = 1.0,
    fps: float | None = None,
    over: str | None = None,
    mask: str | None = None,
    chroma: Literal["420", "444"] = "420",
    device: Device = "auto",
    threads: Threads = None,
    overwrite: Overwrite = False,
) -> None:
    """Render a model to an .mp4 or .y4m file or to a folder of PNG frames, or repair a video with it.

    An .mp4 has the time stamps of the fitted video, and its primaries and transfer characteristics as tags.

    For example:

    stgv render clip.safetensors fitted.mp4

    stgv render clip.safetensors frames --scale 2

    stgv render clip.safetensors repaired.mp4 --over clip.mp4 --mask mask/

    Args:
        model: Model that `stgv fit` or `stgv encode` wrote.
        output: Name ending in .mp4 or .y4m, or a folder.
        scale: Size of the output relative to the frames that were fitted, which may be smaller than the clip's; the
            Gaussians are resampled, not the pixels.
        fps: Frames a second of the file; unset, those of the fitted video, or in an .mp4 its time stamps.
        over: The video that was fitted, as large as it was fitted: the model replaces only values that differ from it
            by more than 10 % of the brightness range (after `stgv fit --huber`), or only the pixels of --mask.
        mask: With --over: the mask of `stgv fit --mask`.
        chroma: Of an .mp4: 420 plays everywhere and needs even sides, so that an odd one gets a row or column more; 444
            keeps the size.
    """
    from stgvlib.codec.load import load_model
    from stgvlib.device import resolve_device, use_threads
    from stgvlib.model.decoder import Decoder
    from stgvlib.model.resample import check_scale
    from stgvlib.video.datasets import as_fitted
    from stgvlib.video.holes import composited, read_mask
    from stgvlib.video.write import is_folder, write_video

    if mask and not over:
        raise StgvError("--mask says which pixels of --over are replaced: give the video that was fitted with --over")
    if over and scale != 1:
        raise StgvError(f"--over keeps frames as large as they were fitted: leave out --scale {scale:g}")
    if fps is not None and not 0 < fps <= 1000:
        raise StgvError(f"fps must be above 0 and at most 1000, got {fps}")
    is_folder(output)  # refuses the suffix of another kind of file
    check_output(output, (model, *files_of(over, mask)), overwrite)
    use_threads(threads)
    fitted, about = load_model(model, resolve_device(device))
    check_scale(scale, fitted.size)
    decoder = Decoder(fitted, scale)
    frames = (frame.cpu().numpy() for frame in decoder)
    if over:
        given = as_fitted(over, sum(fitted.num_frames), fitted.size)
        say(*given.notes)
        if (whole := replace(given, resize=None).size) != given.size:
            say(f"frames of {over} are as large as they were fitted, {size_text(given.size)}, not {size_text(whole)}")
        missing = read_mask(mask, given, given.num_frames) if mask else [None] * given.num_frames
        frames = (composited(*three) for three in zip(frames, given, missing, strict=True))
    rate, aspect = fps or about.get("fps", 25.0), Fraction(*about.get("sample_aspect", (1, 1)))
    durations = about.get("durations") if fps is None else None
    if durations and output.suffix.lower() == ".y4m":
        say(f"a .y4m file has no time stamps: its frames are at even times, {rate:.6g} a second")
    count = write_video(output, frames, rate, aspect, chroma, durations, about.get("color"))
    say(f"wrote {count} frames of {size_text(decoder.size)} to {output}")
    if output.suffix.lower() == ".mp4" and chroma == "420" and any(side % 2 for side in decoder.size):
        padded = tuple(side + side % 2 for side in decoder.size)
        say(f"the file is {size_text(padded)}, since 4:2:0 needs even sides: --chroma 444 keeps the size")
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
    threads: Threads = None,
    overwrite: Overwrite = False,
    steps: tyro.conf.OmitArgPrefixes[Steps] = STEPS,
) -> None:
    """Compress a model to an .stgv file, a group at a time; its size is the bit rate.

    With --video the model is fine-tuned for its file, which is smaller then at the same quality. At the end the command
    prints size, quality (with --video), bytes by section, and the cost of a frame.

    For example:

    stgv encode clip.safetensors clip.stgv

    stgv encode clip.safetensors clip.stgv --video clip.mp4 --target-bpp 0.1

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
    from stgvlib.codec.report import report
    from stgvlib.device import resolve_device, use_threads
    from stgvlib.fitting.progress import ProgressBar
    from stgvlib.model.limits import hints_of
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
    check_output(output, (model, *files_of(video)), overwrite)
    use_threads(threads)
    target = resolve_device(device if video else "cpu")
    fitted, about = load_model(model, target)
    _tell_damage(model, about)
    if "steps" in about and steps == STEPS and video is None and target_bpp is None:
        steps = Steps(**about["steps"])  # those of the file that it was read from
    fps, pixels, clip = about.get("fps", 25.0), math.prod(fitted.size) * sum(fitted.num_frames), None
    hints = hints_of(about, sum(fitted.num_frames))
    if target_bpp is not None:  # time stamps may take kilobytes
        target_bpp = max(1e-9, target_bpp - 8 * len(json.dumps(hints)) / pixels) if hints else target_bpp
    if video is not None:
        clip = as_fitted(video, sum(fitted.num_frames), fitted.size)
        say(*clip.notes)
        part = profile_named("paper" if target.type == "cuda" else "quick").steps
        tuning = fine_tuning or round(part * FINE_TUNING)
        with ProgressBar("encode") as bar:
            made = compress(clip, fitted, target_bpp, quality, fine_tuning=tuning, progress=bar)
        fitted, steps = made.model, made.steps
    elif target_bpp is not None:
        steps = bitstream.steps_for(fitted, int(target_bpp * pixels / 8), steps, fps)
    data = bitstream.stream(fitted, steps, fps, **hints)
    write_atomically(output, data)
    say(f"wrote {output}", *report(data, clip, target))


def decode(
    input: Positional[Path],
    output: Positional[Path],
    /,
    fps: float | None = None,
    chroma: Literal["420", "444"] = "420",
    device: Device = "auto",
    threads: Threads = None,
    overwrite: Overwrite = False,
) -> None:
    """Decode an .stgv file to an .mp4 or .y4m file or to a folder of PNG frames.

    A damaged group costs its own frames, which are black; the exit status is then 2.

    For example:

    stgv decode clip.stgv decoded.mp4

    Args:
        input: File that `stgv encode` wrote.
        output: Name ending in .mp4 or .y4m, or a folder.
        fps: Frames a second of the file; unset, those of the fitted video, or in an .mp4 its time stamps.
        chroma: Of an .mp4, as for `stgv render`.
    """
    render(input, output, fps=fps, chroma=chroma, device=device, threads=threads, overwrite=overwrite)


def evaluate(
    model: Positional[Path], input: Positional[str], /, json_output: _Json = False, device: Device = "auto"
) -> None:
    """Judge a model against the video it was fitted to: PSNR, MS-SSIM, parameters, decoding speed.

    For example:

    stgv eval clip.safetensors clip.mp4

    Args:
        model: Model that `stgv fit` or `stgv encode` wrote.
        input: The video that was fitted; it is cropped in time and resized to the model.
    """
    from stgvlib.codec.load import find_model, load_model
    from stgvlib.device import resolve_device
    from stgvlib.model.judge import judge
    from stgvlib.video.datasets import as_fitted

    fitted, about = load_model(model, resolve_device(device))
    result = judge(fitted, as_fitted(input, sum(fitted.num_frames), fitted.size))
    if "bytes" in about:
        size = find_model(model).stat().st_size
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


def info(file: Positional[str | None] = None, /, system: bool = False, json_output: _Json = False) -> None:
    """Describe a model or a video, or list what this system can run.

    Of a video: size, rate, frames, colours, rotation, and what is ignored.

    For example:

    stgv info clip.mp4

    stgv info --system

    Args:
        file: Model that `stgv fit` or `stgv encode` wrote, video file, folder of frames, or a dataset (bunny ...).
        system: Tell the device, the kernels that would run and why, and library versions.
    """
    from stgvlib.codec.bitstream import is_stream
    from stgvlib.device import system_info
    from stgvlib.video.datasets import open_input

    if system == (file is not None):
        raise StgvError("info takes a model, a video or --system")
    if system:
        result = system_info()
    elif file.endswith((".safetensors", ".stgv")) or is_stream(file):
        result = _about_model(Path(file))
    else:
        about = open_input(file).about()
        result = {"file": str(*files_of(file))} | about
    if json_output:
        print(json.dumps(result))
        return
    for key, value in result.items():
        if isinstance(value, dict):
            value = ", ".join(f"{k} {v}" for k, v in value.items() if not isinstance(v, dict))
        if isinstance(value, list):
            value = ("\n" + " " * 17).join(map(str, value))
        print(f"{key:16} {'' if value is None else value}")


def _about_model(file: Path) -> dict:
    from stgvlib.codec.load import find_model, load_model

    fitted, about = load_model(file)
    size = find_model(file).stat().st_size
    result = {
        "preset": fitted.config.preset,
        "frames": sum(fitted.num_frames),
        "gops": len(fitted.num_frames),
        "width": fitted.size[1],
        "height": fitted.size[0],
        "fps": about.get("fps"),
        **_display(about, sum(fitted.num_frames)),
        "predicted_gops": len(about.get("predicted", ())),
        "gaussians_a_gop": fitted.count,
        "parameters": fitted.num_parameters(),
        "bytes": size,
        "bits_per_pixel": round(8 * size / (math.prod(fitted.size) * sum(fitted.num_frames)), 5),
    }
    more = ("bytes_by_section", "steps", "damaged") if "bytes" in about else ("psnr", "seconds", "device", "config")
    return result | {key: about.get("bytes" if key == "bytes_by_section" else key) for key in more}


def _display(about: dict, frames: int) -> dict:
    """How a model's frames are displayed, in words and seconds."""
    from stgvlib.video.pixels import named
    from stgvlib.video.timing import unpacked

    shown = {"sample_aspect": "{}:{}".format(*about.get("sample_aspect", (1, 1)))}
    if "durations" in about:
        tick, times = unpacked(about["durations"])
        ticks = times[1:] - times[:-1]
        spans = {"shortest": ticks.min(), "longest": ticks.max(), "together": times[-1]}
        shown["durations_s"] = {name: round(float(tick * int(span)), 6) for name, span in spans.items()}
    if "color" in about:
        shown["color"] = named(about["color"])
    return shown | {"poster": about.get("poster", frames // 2)}


def fetch(group: Positional[Literal["davis", "uvg"]], /) -> None:
    """Download a dataset of the paper into data/. An interrupted download resumes.

    Args:
        group: davis (DAVIS 2017, full resolution) or uvg (seven 1080p sequences): gigabytes each.
    """
    from stgvlib.video import datasets

    for path in datasets.fetch(group):
        say(f"{path}")


def _tell_damage(path: Path, about: dict) -> None:
    if damaged := about.get("damaged"):
        told = "; ".join(f"GoP {g} {why}" for g, why in damaged.items())
        raise StgvError(f"{path} is damaged: {told}. Their frames are black, all others are whole")


def main(arguments: list[str] | None = None) -> None:
    """Run one subcommand; exits with 0, or 2 for bad input. `stgvlib.__main__` sees to signals."""
    commands = {
        "fit": fit,
        "render": render,
        "encode": encode,
        "decode": decode,
        "eval": evaluate,
        "info": info,
        "view": view,
        "export": export,
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
        say(f"stgv: {error}")
        sys.exit(2)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:  # a disk that is full, a file that vanished
        say(f"stgv: {error.filename or 'a file'} cannot be read or written: {error.strerror or error}")
        sys.exit(2)
