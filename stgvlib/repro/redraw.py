"""Every figure again, from the records that lie below results/<profile>/runs: `python -m stgvlib.repro figures`.

The notebooks draw the same figures and ask whether each record is valid for today's code, which takes the frames and
minutes. Here records are taken as they are, in seconds.
"""

from collections.abc import Iterator
from pathlib import Path

from stgvlib.baselines import SYSTEMS
from stgvlib.baselines.block_codecs import BLOCK_CODECS, USUAL
from stgvlib.repro import curves, figures
from stgvlib.repro.classical import NOISES
from stgvlib.repro.controls import SAME_ROWS, SCHEDULES, TIMED
from stgvlib.repro.fits import some
from stgvlib.repro.paper import DAVIS_VIDEOS, UVG_VIDEOS
from stgvlib.repro.records import NOT_MADE, Record, load_record, record_path
from stgvlib.repro.registry import COUNTS, RUNS
from stgvlib.repro.tasks import TASKS
from stgvlib.repro.work import COMPRESSED

ENCODINGS = {"Positional": "key_frame", "Planes": "planes", "2D hash alone": "static", "3D hash alone": "dynamic"}
ENCODINGS |= {"2D and 3D hash": "paper", "Our preset": "stgv"}
WORST = ("minimum", "maximum", "uniform")  # filters that Fig. 10 leaves out


def draw_all(profile: str) -> Iterator[Path]:
    """Draw the figures of the notebooks one by one, those that have a record."""

    def load(name: str) -> Record:
        data, damage = load_record(path := record_path(name, profile))
        return Record(name, path, data, damage or ("" if data else NOT_MADE))

    def systems(dataset: str) -> dict[str, Record]:
        found = {system.label: load(f"{dataset}/{key}") for key, system in SYSTEMS.items()}
        rows = {label: f"{dataset}/same_{field}" for field, label in SAME_ROWS.items()}
        return found | {label: load(name) for label, name in rows.items() if name in RUNS}

    multi, key = load("bunny/multi_frame"), load("bunny/key_frame")
    encodings = {title: load(f"bunny/{name}") for title, name in ENCODINGS.items()}
    bunny = systems("bunny")
    yield figures.method_figure(profile)
    if multi and key:
        pair = {"multi-frame (V1)": multi, "key frame (V2)": key}
        yield figures.figure_3(multi, key, profile)
        yield figures.history_figure(pair, profile, "kfci_psnr_over_steps", ("coarse", "deformation"))
    yield figures.figure_8(encodings, profile)
    yield figures.motion_figure(encodings["2D and 3D hash"], profile)
    yield figures.history_figure(encodings, profile, "encodings_psnr_over_steps", ("deformation",))
    yield figures.cost_figure(bunny, profile)
    yield figures.systems_figure(bunny, profile, "figure_4_bunny")
    for dataset in some(TIMED, profile):
        parts = ("_" + part for part in some(SCHEDULES, profile))
        tails = (*parts, "")
        timed = {s.label: [load(f"{dataset}/{k}{tail}") for tail in tails] for k, s in SYSTEMS.items()}
        yield figures.time_figure(timed, profile, f"over_time_{dataset.rpartition('/')[2]}")
    for group, videos in (("davis", DAVIS_VIDEOS), ("uvg", UVG_VIDEOS)):
        for video in some(videos, profile):
            records = systems(f"{group}/{video}")
            if any(record and record.picture("frame").exists() for record in records.values()):
                yield figures.systems_figure(records, profile, f"figure_11_{video}")
    counts = {n: load(f"bunny/n_{n}") for n in some(COUNTS, profile)}
    yield figures.figure_9(counts | {20_000: bunny["STGV"]}, profile)

    anchors = [codec for codec in BLOCK_CODECS if codec not in USUAL]
    settings = {name: curves.CURVES[name] for name in some(curves.SYSTEMS_COMPARED, profile)}
    titles = {name: f"{SYSTEMS[s.system].label}, {s.recipe}" for name, s in settings.items()}
    shown = {title: load(f"bunny/rate_{name}") for name, title in titles.items()}
    source = curves.source_bpp("bunny", load("bunny/rate_stgv"))
    every = shown | {codec: load(f"bunny/anchor_{codec}") for codec in anchors}
    yield figures.figure_5(every, profile, source=source, dataset="bunny")
    for video in some(COMPRESSED, profile):
        fitted = [name for name in ("stgv", *curves.CHAINED) if name in titles]
        found = {titles[name]: load(f"davis/{video}/rate_{name}") for name in fitted}
        found |= {codec: load(f"davis/{video}/anchor_{codec}") for codec in anchors}
        if any(found.values()):
            yield figures.figure_5(found, profile, f"figure_5_{video}")

    names = {"inpaint_random": "figure_6_{}", "inpaint_fixed": "inpainting_fixed_{}"}
    names |= {"inpaint_object": "inpainting_object_{}"} | {f"noise_{n}": f"figure_10_{n}_{{}}" for n in NOISES}
    for task, name in (names | {"scale_2": "figure_7_{}", "between": "between_{}"}).items():
        for dataset in TASKS[task].datasets:
            found = {s: load(f"tasks/{task}/{dataset}/{s}") for s in TASKS[task].systems if s not in WORST}
            if any(found.values()):
                yield figures.task_figure(found, profile, name.format(dataset.rpartition("/")[2]))
