"""`stgv fit`: from a video to a model."""

import re
import shlex
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from stgvlib.config import ON_CPU, ON_CPU_SCALE, PRESETS, PROFILES, FitConfig, Profile, scaled_steps
from stgvlib.config import preset as preset_named
from stgvlib.config import profile as profile_named
from stgvlib.errors import StgvError, size_text
from stgvlib.files import check_output

if TYPE_CHECKING:
    from stgvlib.fitting.estimate import Estimate
    from stgvlib.fitting.plan import FitPlan
    from stgvlib.video.video import Video

Positional = tyro.conf.Positional
Device = Annotated[str, tyro.conf.arg(help="auto, cpu, cuda or cuda:K")]
Threads = Annotated[int | None, tyro.conf.arg(help="CPU threads; unset, one a core.")]
Overwrite = Annotated[bool, tyro.conf.arg(help="Replace the output if it exists.")]


def fit(
    input: Positional[str],
    output: Positional[Path],
    /,
    preset: Literal["auto", "stgv", "quality", "fast", "paper"] = "auto",
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
    target_bpp: float | None = None,
    quality: float | None = None,
    keyint: int | None = None,
    device: Device = "auto",
    threads: Threads = None,
    seed: int = 0,
    resume: bool = False,
    overwrite: Overwrite = False,
) -> None:
    """Fit a video and write a model, or fit it for a compressed file.

    Before it starts, the fit prints its plan, how long that takes, and how long other choices take. Every
    finished GoP is kept in OUTPUT.parts until the model is written, so an interrupted fit goes on with --resume.
    On K GPUs: torchrun --nproc-per-node K -m stgvlib fit ... (each process takes its share of the GoPs).

    For example:

    stgv fit clip.mp4 clip.safetensors

    stgv fit clip.mp4 clip.safetensors --frames 16

    stgv fit frames/ clip.safetensors --size 720x1280 --preset quality

    stgv fit clip.mp4 clip.stgv --target-bpp 0.08

    Args:
        input: Video file, raw .yuv with its size in the name, folder of frames, or a dataset (bunny, davis/cows ...).
        output: Model to write, ending in .safetensors; or a compressed file, ending in .stgv, that the fit is made for.
        preset: quality is our best, fast is quality with 0.3 of its deformation steps, paper is the method as
            published, stgv is our trainer with a field of hashes alone, as the paper has it.
            auto takes quality on a GPU, and fast on a CPU.
        profile: How many steps, and how large: smoke (30 % of the sides), quick (50 %) or paper (all).
            auto takes paper on a GPU and quick on a CPU. Where preset is auto too, a CPU takes a shortened fast at 35 %
            of the sides: minutes for five seconds of 720p.
        frames: Fit only the first frames.
        gop_size: Frames of a GoP, which share one set of Gaussians; unset, the preset's: 10 for paper; for the others
            5 to 33, whichever short trials on this video find best (a twentieth to a third of the time). A new scene
            begins a new GoP.
        gaussians: Gaussians a GoP; unset, as many as the paper's parameter budget gives.
        coarse_steps: Steps of the coarse (key frame) stage; unset, the preset's times the profile's fraction.
        motion_steps: Steps in which the field learns to follow optical flow, before the deformation stage; unset, the
            preset's times the profile's fraction: none for paper.
        steps: Steps of the deformation stage; unset, the preset's times the profile's fraction. Where trials choose the
            length of GoPs, these are the steps for 16 frames, and shorter GoPs take fewer in proportion.
        size: Resize frames to HEIGHTxWIDTH; unset, the profile's fraction of their sides.
        mask: Folder of pictures or video, one frame for each of the input's, white where pixels are missing: they are
            filled along optical flow before the fit or, without motion steps, left out of its loss.
        huber: For frames with dust, dropouts or dead pixels: differences above this fraction of the brightness range
            count linearly, not squared (Huber loss), so the fit ignores such pixels; 0.1 suits most. Unset: squared.
        target_bpp: Of an .stgv file: bits a pixel that it may have; takes up to four tries after the fit.
        quality: Of an .stgv file: PSNR in dB that it aims at, instead of a size. Without either, size and quality are
            weighed against each other.
        keyint: Of an .stgv file: GoPs of a chain, 4 if unset. The first is coded on its own, the others as differences
            from the one before; 1: every GoP can be decoded alone. A new scene begins a chain too, and a GoP in which
            the camera uncovers more than 6 % of the frame.
        seed: Random seed.
        resume: Go on with an interrupted fit.
    """
    import torch

    from stgvlib.device import device_name, fallback_reason, resolve_device, select_device, use_threads
    from stgvlib.fitting.estimate import duration, measure
    from stgvlib.fitting.fit import fit_plans
    from stgvlib.fitting.plan import describe, plan_fits, plans_identity
    from stgvlib.fitting.processes import join_torchrun
    from stgvlib.fitting.progress import ProgressBar
    from stgvlib.fitting.resume import Parts
    from stgvlib.metrics import evaluate
    from stgvlib.model.decoder import Decoder
    from stgvlib.model.model_file import save_model

    use_threads(threads)
    share = join_torchrun()
    if share and device in ("auto", "cuda") and resolve_device(device).type == "cuda":
        device = f"cuda:{share.local_rank}"
    target = select_device(device)
    if device == "auto" and (why := fallback_reason()):
        say(f"fitting on the CPU: {why}")
    if output.suffix not in (".safetensors", ".stgv"):
        raise StgvError(f"output must end in .safetensors or .stgv, got {output.name}")
    check_output(output, files_of(input, mask), overwrite)
    chosen, to = _defaults(preset, profile, target.type)
    given = {"gop_size": gop_size, "gaussians": gaussians, "huber": huber}
    given |= {"coarse_steps": coarse_steps, "motion_steps": motion_steps, "steps": steps}
    given = {name: value for name, value in given.items() if value is not None}
    video = _input(input, frames, size, mask, to.scale)
    aspect = video.sample_aspect.limit_denominator(1000)
    if not 0 < video.fps <= 1000 or max(aspect.as_integer_ratio()) > 65_535:
        told = f"{input} has {video.fps:g} frames/s and pixels {aspect} as wide as high: no model can say so"
        raise StgvError(
            f"{told}. Convert it first: ffmpeg -i {shlex.quote(str(input))} -vf setsar=1 -r 25 converted.mp4"
        )
    aims = {"target_bpp": target_bpp, "quality": quality, "keyint": keyint}
    aims = {name: value for name, value in aims.items() if value is not None}
    if output.suffix == ".stgv":
        if share:
            raise StgvError("a fit for an .stgv file runs in one process: leave out torchrun")
        return fit_file(video, output, chosen, given, to, target, seed, resume, **aims)
    if aims:
        raise StgvError(f"{', '.join(aims)}: of an .stgv file, got the output {output.name}")
    config = replace(chosen, **given)
    plans = plan_fits(video, config, seed)
    first, began = share is None or share.rank == 0, time.perf_counter()
    parts = Parts(output.with_name(output.name + ".parts"), resume or bool(share and share.restarted), first)
    with parts:
        parts.begin(plans_identity(plans, target))
        expected = None
        if first:
            together = f", shared by {share.world} processes" if share else ""
            say(*video.notes, *_reduced(video, to))
            say(f"{describe(plans)}, preset {config.preset}, profile {to.name}, on {device_name(target)}{together}")
            say("measuring ten steps of each stage ...")
            estimate = measure(plans, target)
            begun = {model.config.gop_size for model in parts.done.values()}  # the length that trials have chosen
            left = [plan for plan in plans if plan.config.gop_size in begun] or plans
            seconds = estimate.seconds(left, len(parts.done), len(parts.trials)) / (share.world if share else 1)
            expected = seconds, estimate.step
            say(f"the fit takes about {duration(seconds)}" + _others(estimate, plans[-1], to, seconds, size))
        try:
            with ProgressBar("fit" if first else f"fit, rank {share.rank}", expected=expected) as bar:
                result = fit_plans(plans, target, parts, progress=bar, share=share)
            if first:
                about = {"seed": seed, "seconds": {k: round(v, 2) for k, v in result.seconds.items()}}
                about |= {"device": device_name(target), "fps": video.fps, "psnr": None}
                if video.missing is None:  # else there is nothing to compare with behind the mask
                    shown = Decoder(result.model, dtype=torch.float32)
                    psnr = evaluate(shown, plans[0].video, similarity=False)["psnr"]
                    about["psnr"] = round(min(psnr, 99.0), 2)  # JSON knows no infinity
                save_model(result.model, output, **about, **video.hints())
                parts.remove()
        except KeyboardInterrupt:
            if first:
                trials = f", trials: {len(parts.trials)}" if parts.trials else ""
                say(f"interrupted; kept are finished GoPs: {parts.finished}{trials}; add --resume to go on")
            raise
    if first:
        took, size_mb = duration(time.perf_counter() - began), output.stat().st_size / 1e6
        quality = f"PSNR {about['psnr']:.2f} dB on " if about["psnr"] is not None else ""
        say(
            f"wrote {output}: {quality}{video.num_frames} frames of {size_text(video.size)}, "
            f"{result.model.num_parameters():,} parameters, {size_mb:.1f} MB, in {took}"
        )
        names = [shlex.quote(str(name)) for name in (output, output.with_suffix(""), input)]
        say("next: stgv render {0} {1}_fitted.mp4, or stgv encode {0} {1}.stgv --video {2}".format(*names))


def fit_file(
    video: "Video",
    output: Path,
    chosen: FitConfig,
    given: dict,
    to: Profile,
    device,
    seed: int,
    resume: bool,
    target_bpp: float | None = None,
    quality: float | None = None,
    keyint: int | None = None,
) -> None:
    """Fit a video for its .stgv file. Fitted key GoPs are kept in OUTPUT.parts until it is written."""
    from stgvlib.codec.chains import (
        ATTEMPTS,
        CHANGING,
        FINE_TUNING,
        FIT_STEPS,
        KEYINT,
        code_chains,
        fit_keys,
        plan_chains,
        setting_for,
    )
    from stgvlib.codec.report import report
    from stgvlib.device import device_name
    from stgvlib.files import write_atomically
    from stgvlib.fitting.estimate import duration, measure
    from stgvlib.fitting.plan import plans_identity
    from stgvlib.fitting.progress import ProgressBar
    from stgvlib.fitting.resume import Parts

    for name, value in (("target_bpp", target_bpp), ("quality", quality)):
        if value is not None and not 0 < value < float("inf"):
            raise StgvError(f"{name} must be above 0, got {value}")
    if target_bpp is not None and quality is not None:
        raise StgvError("give either target_bpp or quality")
    if "huber" in given:
        raise StgvError("huber needs two steps: fit to a .safetensors file, then stgv encode it")
    most = round(FIT_STEPS * to.steps) if chosen.preset != "paper" else chosen.steps
    config = setting_for(video.size, replace(chosen, steps=min(chosen.steps, most) if to.steps < 1 else most))
    config, began = replace(config, **given), time.perf_counter()
    if video.num_frames > 500:  # seconds
        say(f"following {video.num_frames:,} frames along optical flow, to see which GoPs can be predicted ...")
    planned = plan_chains(video, config, KEYINT if keyint is None else keyint, seed)
    tuning, changing = (max(1, round(number * to.steps)) for number in (FINE_TUNING, CHANGING))
    plan, chains = planned
    tries = 1 if target_bpp is None and quality is None else ATTEMPTS
    with Parts(output.with_name(output.name + ".parts"), resume) as parts:
        parts.begin(plans_identity([plan], device) | {"chains": [list(map(list, chain)) for chain in chains]})
        say(*video.notes, *_reduced(video, to))
        gops, together = sum(map(len, chains)), f"{len(chains)} chain{'s' * (len(chains) > 1)}"
        say(
            f"{video.num_frames} frames of {size_text(video.size)} as {gops} GoPs in {together}, "
            f"{plan.count:,} Gaussians each, on {device_name(device)}"
        )
        say("measuring ten steps of each stage ...")
        estimate = measure([plan], device)
        step = estimate.step["deformation"] / estimate.batch  # of a GoP
        once = step * (2 * tuning * len(chains) + 2 * changing * (gops - len(chains)))  # with rounding and rate
        seconds = estimate.seconds([plan], len(parts.done)) + once * min(tries, 2)
        say(f"this takes about {duration(seconds)}")
        try:
            with ProgressBar("fit of key GoPs") as bar:
                keys = fit_keys(planned, device, parts, bar)
            with ProgressBar("coding") as bar:
                made = code_chains(keys, target_bpp, quality, None, tuning, changing, bar)
        except KeyboardInterrupt:
            say(f"interrupted; kept are fitted key GoPs: {parts.finished}; add --resume to go on")
            raise
        write_atomically(output, made.data)
        parts.remove()
    lines = report(made.data, video, device)
    say(f"wrote {output} in {duration(time.perf_counter() - began)}", *lines)
    names = [shlex.quote(str(name)) for name in (output, output.with_suffix(""))]
    say("next: stgv view {0}, or stgv decode {0} {1}_decoded.mp4".format(*names))


def _defaults(preset: str, profile: str, device: str) -> tuple[FitConfig, Profile]:
    """The configuration, and the profile that it was scaled to."""
    if device == "cpu" and preset == "auto" and profile == "auto":
        return ON_CPU, Profile("for a CPU", ON_CPU_SCALE)
    on_cpu = device == "cpu"
    to = profile_named(("quick" if on_cpu else "paper") if profile == "auto" else profile)
    return scaled_steps(preset_named(("fast" if on_cpu else "quality") if preset == "auto" else preset), to), to


def _reduced(video: "Video", to: Profile) -> list[str]:
    """What is made smaller before the fit, and how to keep it."""
    whole = replace(video, resize=None)
    if whole.size[0] * whole.size[1] <= video.size[0] * video.size[1]:
        return []
    keep = f"--size {whole.size[0]}x{whole.size[1]}"
    return [f"frames are made smaller, from {size_text(whole.size)} to {size_text(video.size)}: {keep} keeps them"]


def _others(estimate: "Estimate", longest: "FitPlan", to: Profile, seconds: float, size: str | None) -> str:
    """Other choices and how long they take, where the fit is no matter of seconds."""
    from stgvlib.fitting.estimate import duration

    if seconds < 60:
        return ""
    gops, other = len(longest.gops), "fast" if longest.config.preset != "fast" else "quality"
    then = to if to.name in PROFILES else PROFILES["quick"]
    took = estimate.of(scaled_steps(PRESETS[other], then), gops)
    took *= 1 if size else (then.scale / to.scale) ** 2  # a step takes as long as frames have pixels
    choices = {f"--preset {other}": took}
    if gops > estimate.batch:
        choices["--frames 16"] = estimate.of(longest.config, 1)
    return "; " + ", ".join(f"{choice} about {duration(took)}" for choice, took in choices.items())


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


def _size(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"([0-9]{1,6})[xX]([0-9]{1,6})", text)
    if not found or min(int(found[1]), int(found[2])) < 1:
        raise StgvError(f"size must be HEIGHTxWIDTH such as 360x640, got {text!r}")
    return int(found[1]), int(found[2])


def files_of(*names: str | None) -> list[str | Path]:
    """The files that inputs name: a dataset's lies in a data folder."""
    from stgvlib.video.datasets import DATASETS, find

    return [name if name not in DATASETS else find(name) for name in names if name is not None]


def say(*lines: str) -> None:
    for line in lines:
        print(line, file=sys.stderr, flush=True)
