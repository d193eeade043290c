"""Rate-distortion curves: every system compressed to several rates, into real files, decoded and judged again.

`curve("stgv", "bunny", "smoke")` loads results/smoke/runs/bunny/rate_stgv.json where it is valid, else takes the run's
model (fits.fitted), compresses it to each level, and keeps the points; `block_codec("x264", ...)` does so for a block
codec. A point's rate is its file's size on disk and nothing else.
"""

import math
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from itertools import cycle
from pathlib import Path

import torch
from torch import nn
from tqdm.auto import tqdm

from stgvlib.baselines import block_codecs
from stgvlib.baselines.block_codecs import BLOCK_CODECS
from stgvlib.baselines.inr_codec import decode_inr, encode_inr
from stgvlib.baselines.paper_codec import compress_paper, decode_paper, encode_paper, round_field
from stgvlib.codec import bitstream, chains
from stgvlib.codec.chains import FINE_TUNING as FINE_TUNING_KEYS
from stgvlib.codec.fine_tune import FINE_TUNING, compress
from stgvlib.config import QUALITY, Profile, changes, scaled_steps
from stgvlib.device import device_name
from stgvlib.errors import StgvError
from stgvlib.metrics import evaluate
from stgvlib.model.decoder import Decoder
from stgvlib.model.video_model import VideoModel
from stgvlib.repro.fits import digest_of, fitted, frames_of, some, sources_of
from stgvlib.repro.records import HOLDS_DATA, How, Job, NotRun, Record, load_record, recorded, save_record
from stgvlib.repro.registry import Run, named
from stgvlib.video.datasets import find, load_dataset
from stgvlib.video.video import Video

VERSION = 2  # raised when a change of the code changes what a curve's figures mean
HOLDS = {"points": list, **HOLDS_DATA, "device": str}
BITS_A_PARAMETER = (9.0, 5.5, 3.15, 2.0, 1.2, 0.6)  # of the fitted model: 0.23 to 0.016 bits a pixel on Bunny
LOW_BITS = (3.15, 2.0, 1.2, 0.6, 0.3)  # down to 0.008 bits a pixel: where longer GoPs may pay
PART_BITS = BITS_A_PARAMETER[1:5]  # of our recipe without a part: enough for a BD-rate
WEIGHT_BITS = (8, 7, 6, 5, 4)
SLOPES = (6e-4, 2e-3, 5e-3, 1.2e-2)


@dataclass(frozen=True)
class Curve:
    """How a system's model becomes files of several rates."""

    system: str = ""  # a key of baselines.SYSTEMS
    recipe: str = ""  # what is done, in words
    levels: tuple[float, ...] = BITS_A_PARAMETER  # bits a parameter; of implicit networks: bits of the largest weight
    fine_tuning: int = FINE_TUNING  # steps of a level; 0: only rounded
    runs: tuple[str, ...] = ()  # a run of its own for each level; of the paper's recipe, levels are their Gaussians
    # parts of our recipe that can be left out
    prune: bool = True  # Gaussians, where there are few bits for each
    learned: bool = True  # steps of the quantisers
    rate: bool = True  # is part of the loss
    adaptive: bool = True  # steps that differ by Gaussian
    codebooks: tuple[int, int] = (2, 8)  # of the paper's recipe: stages, entries
    rows: bool = False  # of the paper's recipe: a step for each input of the MLP's layers
    # of files with predicted GoPs, which are fitted for it: GoPs of a chain; levels are MSE a bit per pixel is worth
    keyint: int = 0


PAPER_RECIPE = Curve(
    "paper",
    "its own recipe",
    levels=(40_000, 20_000, 10_000, 5_000),
    fine_tuning=8_000,
    runs=("n_40000", "paper", "n_10000", "n_5000"),
)
CURVES = {
    "stgv": Curve("stgv", "our recipe"),
    "stgv_long": Curve("stgv", "our recipe, GoPs of 33 frames", LOW_BITS, runs=("gop_33",) * len(LOW_BITS)),
    "chains": Curve(
        "quality", "fitted for its file, up to three of four GoPs predicted", SLOPES, FINE_TUNING_KEYS, keyint=4
    ),
    "keys": Curve("quality", "fitted for its file, no GoP predicted", SLOPES, FINE_TUNING_KEYS, keyint=1),
    "paper_recipe": PAPER_RECIPE,
    **{
        f"paper_recipe_{entries}": replace(
            PAPER_RECIPE, recipe=f"its own recipe, codebooks of {entries}", codebooks=(2, entries)
        )
        for entries in (64, 256, 1024)
    },
    "paper_recipe_rows": replace(  # at the method's own size alone
        PAPER_RECIPE,
        recipe="its own recipe, codebooks of 1024, a step a row",
        levels=(20_000,),
        runs=("paper",),
        codebooks=(2, 1024),
        rows=True,
    ),
    "paper": Curve("paper", "our recipe"),
    "d2gv": Curve("d2gv", "our recipe"),
    "2dgs": Curve("2dgs", "our recipe", fine_tuning=5_000),
    "hnerv": Curve("hnerv", "rounded, entropy-coded", WEIGHT_BITS, 0),
    "nerv": Curve("nerv", "rounded, entropy-coded", WEIGHT_BITS, 0),
    "stgv_rounded": Curve("stgv", "rounded, not fine-tuned", levels=(7.2, 6.0, 5.0, 4.3), fine_tuning=0),
    "stgv_kept": Curve("stgv", "our recipe, no Gaussian left out", PART_BITS, prune=False),
    "stgv_fixed": Curve("stgv", "our recipe, steps not learned", PART_BITS, learned=False),
    "stgv_one_step": Curve("stgv", "our recipe, one step for all Gaussians", PART_BITS, adaptive=False),
    "stgv_no_rate": Curve("stgv", "our recipe, rate not in the loss", PART_BITS, rate=False),
}
# Our recipe without one of its parts.
PARTS = ("stgv_rounded", "stgv_kept", "stgv_fixed", "stgv_one_step", "stgv_no_rate")
CHAINED = ("chains", "keys")
SYSTEMS_COMPARED = tuple(name for name in CURVES if name not in PARTS)


@dataclass(frozen=True)
class Recipe:
    """A way of writing a model into a file of one level, and of reading it."""

    write: Callable[[Video, nn.Module, Curve, float, int, Path], dict]  # ..., level, steps, file -> more of a point
    read: Callable[..., bitstream.Content | nn.Module]  # the file's bytes, threads, device
    source: str  # the module that decides what comes out


def _write_ours(video: Video, model: VideoModel, setting: Curve, level: float, tuning: int, file: Path) -> dict:
    pixels = video.num_frames * math.prod(video.size)
    bpp = level * model.num_parameters() / pixels
    if tuning == 0:
        bitstream.encode(model, file, bitstream.steps_for(model, int(bpp * pixels / 8)))
        return {}
    parts = {name: getattr(setting, name) for name in ("prune", "learned", "rate", "adaptive")}
    made = compress(video, model, bpp=bpp, fine_tuning=tuning, **parts)
    bitstream.encode(made.model, file, made.steps)
    return {"kept": round(made.kept, 4), "slope": made.slope, "fine_tuning_seconds": round(made.seconds, 2)}


def _write_chains(video: Video, keys: chains.Chains, setting: Curve, level: float, tuning: int, file: Path) -> dict:
    changing = round(tuning * chains.CHANGING / FINE_TUNING_KEYS)
    made = chains.code_chains(keys, slope=level, fine_tuning=tuning, changing=changing)
    file.write_bytes(made.data)
    seconds = {name: spent for name, spent in made.seconds.items() if name != "fit"}
    return {"gops": made.gops, "slope": made.slope, "fine_tuning_seconds": round(sum(seconds.values()), 2)}


def _fit_keys(video: Video, setting: Curve, to: Profile, device: torch.device) -> chains.Chains:
    """What all levels of a curve with predicted GoPs begin with."""
    config = scaled_steps(chains.setting_for(video.size, replace(QUALITY, steps=chains.FIT_STEPS)), to)
    return chains.fit_keys(chains.plan_chains(video, config, setting.keyint), device)


def _write_paper(video: Video, model: VideoModel, setting: Curve, level: float, tuning: int, file: Path) -> dict:
    made = compress_paper(video, model, tuning, setting.codebooks, setting.rows)
    file.write_bytes(encode_paper(made))
    point = {"fine_tuning_seconds": round(made.seconds, 2)}
    if setting.rows:  # the fitted model, and it with only its field rounded as the recipe does, in both ways
        rounded = {"8bit_field": round_field(model, rows=False), "8bit_field_rows": round_field(model, rows=True)}
        for key, shown in ({"fitted": model} | rounded).items():
            quality = evaluate(Decoder(shown, dtype=torch.float32), video, similarity=False)
            point[f"psnr_{key}"] = quality["psnr"]
    return point


def _write_weights(video: Video, model: nn.Module, setting: Curve, level: float, tuning: int, file: Path) -> dict:
    file.write_bytes(encode_inr(model, round(level)))
    return {}


OURS = Recipe(_write_ours, bitstream.parse, "stgvlib.codec.fine_tune")
PAPERS = Recipe(_write_paper, lambda data, _, device: decode_paper(data).to(device), "stgvlib.baselines.paper_codec")
WEIGHTS = Recipe(_write_weights, lambda data, _, device: decode_inr(data).to(device), "stgvlib.baselines.inr_codec")
RECIPES = {name: PAPERS for name in CURVES if name.startswith("paper_recipe")}
RECIPES |= {"hnerv": WEIGHTS, "nerv": WEIGHTS}
CHAINS = Recipe(_write_chains, bitstream.parse, "stgvlib.codec.chains")
RECIPES |= dict.fromkeys(CHAINED, CHAINS)  # all others are OURS


def curve(
    name: str,
    dataset: str,
    profile_name: str,
    device: str = "auto",
    refresh: bool = False,
    show_progress: bool = True,
    make: bool = True,
) -> Record:
    """The curve of one of CURVES on a dataset: `points` from high rate to low. One that was interrupted goes on.

    Raises StgvError for an unknown name.
    """
    if name not in CURVES:
        raise StgvError(f"curve must be one of {', '.join(CURVES)}, got {name!r}")
    how = How(profile_name, device, refresh, show_progress, make)
    setting, recipe = CURVES[name], RECIPES.get(name, OURS)
    to, spec = how.profile, named(f"{dataset}/{setting.system}")
    tuning = round(setting.fine_tuning * to.coarse_steps)
    levels = some(setting.levels, profile_name)
    runs = [f"{dataset}/{fit}" for fit in some(setting.runs, profile_name) or [setting.system]]

    def key(data: dict) -> tuple[dict, dict]:
        says = {"config": asdict(setting), "fine_tuning": tuning, "levels": levels, "dataset": data}
        return says, changes(replace(setting, recipe=""))

    def also(data: dict) -> dict:
        return {} if setting.keyint else {"run_hash": [digest_of(fit, to, data) for fit in runs]}

    def make_record(job: Job) -> dict:
        begun, points, model = job.path.with_suffix(".points"), [], None
        so_far = {"hash": job.digest, "device": device_name(job.device)} | also(job.key["dataset"])
        if not refresh and (known := load_record(begun)[0]) and known.items() >= so_far.items():  # it was interrupted
            points = known["points"]
        bar = tqdm(total=len(levels), desc=job.path.stem, unit="rate", file=sys.stderr, disable=not show_progress)
        with tempfile.TemporaryDirectory() as folder, bar:
            bar.update(len(points))
            for level, fit in list(zip(levels, cycle(runs)))[len(points) :]:
                if setting.keyint:
                    model = model or _fit_keys(job.video, setting, to, job.device)
                    record = {"parameters": model.parameters}
                elif model is None or setting.runs:
                    model, record = fitted(fit, profile_name, device, show_progress)
                    if model is None:
                        raise NotRun(record.reason)
                file, began = Path(folder) / "video.stgv", time.perf_counter()
                more = recipe.write(job.video, model, setting, level, tuning, file)
                seconds = time.perf_counter() - began
                point = {"level": level} | _judged(file, recipe.read, spec, job.video, job.device) | more
                points.append(point | {"parameters": record["parameters"], "encode_seconds": round(seconds, 2)})
                save_record(job.path.stem, begun, so_far | {"points": points})
                bar.update()
        begun.unlink(missing_ok=True)
        return {"run": runs, "parameters": points[0]["parameters"], "points": points}

    return recorded(
        f"{dataset}/rate_{name}",
        key,
        make_record,
        VERSION,
        frames=lambda found: frames_of(spec, to, found),
        holds=HOLDS,
        sources=(*sources_of(spec), recipe.source),
        how=how,
        needs_gpu="not run: fine-tuning at the paper's size needs a CUDA GPU" if tuning else "",
        also=also,
    )


def _judged(file: Path, read: Callable, spec: Run, video: Video, device: torch.device) -> dict:
    """A file's rate, the quality of what it decodes to, and how long that takes: entropy decoding on one core and on
    all, all frames to 8 bits on the device, once cold and once again."""
    size, data, parsed = file.stat().st_size, file.read_bytes(), []
    for threads in (1, 1, None):  # the first loads compiled loops
        began = time.perf_counter()
        content = read(data, threads, "cpu" if threads else device)
        sections = getattr(content, "bytes", None)  # of our own format
        model = content if sections is None else content.model
        parsed.append(time.perf_counter() - began)
    seconds, decoder = [], spec.system.decoder(model)
    if device.type == "cuda":
        for _ in range(2):
            began = time.perf_counter()
            for start in range(0, len(decoder), decoder.batch):
                decoder.frames(range(start, min(start + decoder.batch, len(decoder))))
            torch.cuda.synchronize()
            seconds.append(time.perf_counter() - began)
    quality = evaluate(spec.system.decoder(model, torch.float32), video)
    point = {"bytes": size, "bpp": 8 * size / (math.prod(video.size) * video.num_frames)}
    point |= {name: quality[name] for name in ("psnr", "psnr_yuv", "ms_ssim")}
    point |= {"entropy_decoding_seconds": round(parsed[-2], 4)}
    if seconds:
        frames = video.num_frames
        point |= {
            "decode_fps": round(frames / seconds[1], 1),
            "file_to_frames_fps": round(frames / (parsed[-1] + seconds[1]), 1),
        }
    return point | ({"sections": sections} if sections else {})


def source_bpp(dataset: str, record: Record) -> float | None:
    """Bits a pixel of the file that a dataset's frames come from: bytes a frame of its stream over the pixels that the
    record's frames have. None without a record, where its frames were made smaller, where they are pictures or lie
    elsewhere."""
    path = find(dataset)
    if not record or path is None or path.is_dir() or list(load_dataset(dataset).size) != record["dataset"]["size"]:
        return None
    return 8 * block_codecs.source_rate(path)[1] / math.prod(record["dataset"]["size"])


def block_codec(
    codec: str,
    dataset: str,
    profile_name: str,
    refresh: bool = False,
    show_progress: bool = True,
    make: bool = True,
) -> Record:
    """The rate-distortion curve of one of BLOCK_CODECS on a dataset: `points` from high rate to low.

    Runs on a CPU at every profile. Raises StgvError for an unknown codec; one that is not installed is the reason.
    """
    if codec not in BLOCK_CODECS:
        raise StgvError(f"codec must be one of {', '.join(BLOCK_CODECS)}, got {codec!r}")
    how = How(profile_name, "cpu", refresh, show_progress, make)
    setting, name = BLOCK_CODECS[codec], f"{dataset}/anchor_{codec}"

    def key(data: dict) -> tuple[dict, dict]:
        return {"config": asdict(setting), "dataset": data, "record_version": VERSION}, setting.settings()

    def make_record(job: Job) -> dict:
        levels = tqdm(setting.levels, desc=name, unit="rate", file=sys.stderr, disable=not show_progress)
        try:
            points = [block_codecs.point(job.video, setting, level) for level in levels]
        except StgvError as error:
            raise NotRun(f"not run: {error}") from error
        return block_codecs.made_by(setting) | {"points": points}

    return recorded(
        name,
        key,
        make_record,
        VERSION,
        frames=lambda found: frames_of(Run(dataset, None, ""), how.profile, found),
        holds=HOLDS,
        sources=("stgvlib.baselines.block_codecs",),
        how=how,
    )
