"""The `stgv` command as a user runs it, good input and bad. What must never be lost is in test_safety.py.

| case | source | test |
|---|---|---|
| sample aspect, rate, odd sides | CASES E | test_rate_and_pixel_shape_go_all_the_way |
| time stamps, primaries and transfer, poster | | test_times_colours_and_a_poster_go_all_the_way |
| no estimate, PSNR or next step; `--steps 5` | FAULTS 13 | test_a_first_fit_says_what_it_takes_and_made |
| `--size ²x4` | CASES C | test_a_first_fit_says_what_it_takes_and_made |
| `info FOLDER`, a video, `encode x.stgv` | CASES D | test_info_of_a_video, test_encode_and_decode |
"""

import json
from fractions import Fraction

import cv2
import numpy as np
import pytest
import torch
from command import refused, stgv

from stgvlib.codec.load import load_model
from stgvlib.config import FieldConfig, from_dict
from stgvlib.model.budget import field_parameters
from stgvlib.model.model_file import save_model
from stgvlib.video.video import open_video
from stgvlib.video.write import write_video


def test_eval_and_info(model, clip):
    result = json.loads(stgv("eval", model, clip, "--json").stdout)
    assert {"psnr", "psnr_8bit", "ms_ssim", "parameters", "frames", "width", "height", "decode_fps"} <= set(result)
    assert result["psnr"] > 15 and result["frames"] == 5 and (result["width"], result["height"]) == (32, 24)
    assert result["ms_ssim"] is None
    assert "160 px or less" in stgv("eval", model, clip).stdout
    about = json.loads(stgv("info", model, "--json").stdout)
    assert about["gaussians_a_gop"] == 50 and about["config"]["coarse_steps"] == 20
    field = from_dict(FieldConfig, about["config"]["field"])
    assert field.fade and about["config"]["grey"] == 0.5
    assert result["parameters"] == (8 + 1) * 50 - 2 * 25 + field_parameters(field)
    system = json.loads(stgv("info", "--system", "--json").stdout)
    assert {"device", "kernels", "cuda", "why", "versions"} <= set(system)


def test_render(model, tmp_path):
    assert stgv("render", model, tmp_path / "out.mp4", "--scale", "2", "--fps", "10").returncode == 0
    video = open_video(tmp_path / "out.mp4")
    assert (video.num_frames, video.size, video.fps) == (5, (48, 64), 10.0)
    assert stgv("render", model, tmp_path / "pngs").returncode == 0
    assert open_video(tmp_path / "pngs").size == (24, 32)


def test_render_repairs_what_was_fitted(model, clip, tmp_path):
    """Outliers without a mask, with one its pixels; all else stays as it was given, also with a folder of frames."""
    hurt, given = tmp_path / "hurt", open_video(clip).read()
    given[:, 5, ::3] = 255 - given[:, 5, ::3]
    write_video(hurt, given)
    assert stgv("render", model, tmp_path / "fit").returncode == 0
    fit = open_video(tmp_path / "fit").read()
    assert stgv("render", model, tmp_path / "repaired", "--over", hurt).returncode == 0
    off = np.abs(fit.astype(int) - given) > 25.5
    assert off[:, 5].any() and not off.all()
    assert np.array_equal(open_video(tmp_path / "repaired").read(), np.where(off, fit, given))
    white = np.zeros((5, 24, 32, 3), np.uint8)
    white[:, 4:9, 6:12] = 255
    write_video(tmp_path / "mask", white)
    done = stgv("render", model, tmp_path / "filled", "--over", hurt, "--mask", tmp_path / "mask")
    assert done.returncode == 0, done.stderr
    assert np.array_equal(open_video(tmp_path / "filled").read(), np.where(white > 0, fit, given))


def test_help_names_every_option():
    shown = stgv("fit", "--help").stdout
    for option in (
        "preset",
        "profile",
        "frames",
        "gaussians",
        "coarse-steps",
        "motion-steps",
        "steps",
        "size",
        "device",
        "seed",
        "resume",
    ):
        assert f"--{option}" in shown
    for command in ("fit", "render", "encode", "decode", "eval", "info"):
        assert f"For example:\n\nstgv {command} " in stgv(command, "--help").stdout
    assert all(command in stgv("--help").stdout for command in ("fit", "render", "eval", "info", "fetch"))


def test_bad_input_is_one_line(model, clip, tmp_path):
    out = tmp_path / "x.safetensors"
    assert "does not exist" in refused("fit", tmp_path / "none.mp4", out)
    assert "at least 1" in refused("fit", clip, out, "--gaussians", "0", "--device", "cpu")
    assert "at least 0" in refused("fit", clip, out, "--steps", "-1", "--device", "cpu")
    assert "huber must be above 0" in refused("fit", clip, out, "--huber", "0", "--device", "cpu")
    assert "frames must be at least 1" in refused("fit", clip, out, "--frames", "0")
    assert "has 5 frames, --frames asked for 6" in refused("fit", clip, out, "--frames", "6")
    assert "HEIGHTxWIDTH" in refused("fit", clip, out, "--size", "12")
    assert ".safetensors" in refused("fit", clip, tmp_path / "x.pt")
    assert "does not exist" in refused("fit", clip, tmp_path / "nowhere" / "x.safetensors")
    assert "auto, cpu or cuda" in refused("fit", clip, out, "--device", "tpu")
    assert "scale must be" in refused("render", model, tmp_path / "a.mp4", "--scale", "0")
    assert "with --over" in refused("render", model, tmp_path / "a.mp4", "--mask", clip)
    assert "leave out --scale 2" in refused("render", model, tmp_path / "a.mp4", "--over", clip, "--scale", "2")
    assert "does not exist" in refused("render", model, tmp_path / "a.mp4", "--over", tmp_path / "none.mp4")
    assert "do not fit in memory" in refused("render", model, tmp_path / "a.mp4", "--scale", "5000")
    mask = tmp_path / "mask"
    write_video(mask, np.zeros((5, 7, 9, 3), np.uint8))
    assert "the mask is 9x7, expected" in refused("fit", clip, out, "--mask", mask, "--device", "cpu")
    assert "must end in .mp4" in refused("render", model, tmp_path / "a.gif")
    assert "the model 5" in refused("eval", model, _short(clip, tmp_path))
    assert "takes a model, a video or --system" in refused("info")
    (tmp_path / "junk.safetensors").write_bytes(b"junk")
    assert "damaged" in refused("info", tmp_path / "junk.safetensors")
    assert list(tmp_path.glob("*.parts")) == [] and not out.exists()


def _short(clip, folder):
    write_video(folder / "short", open_video(clip).read(0, 2))
    return folder / "short"


def test_cuda_without_a_gpu(clip, tmp_path):
    from stgvlib.device import cuda_status

    if cuda_status()[0]:
        pytest.skip("there is a GPU here")
    line = refused("fit", clip, tmp_path / "x.safetensors", "--device", "cuda")
    assert "--device cpu" in line


def test_encode_and_decode(model, clip, tmp_path):
    small = tmp_path / "m.stgv"
    done = stgv("encode", model, small)
    assert done.returncode == 0 and f"{small.stat().st_size:,} bytes" in done.stderr and "bits a pixel" in done.stderr
    assert small.stat().st_size < 0.5 * model.stat().st_size
    before, after = (json.loads(stgv("eval", m, clip, "--json").stdout) for m in (model, small))
    assert abs(before["psnr"] - after["psnr"]) < 1 and after["bytes"] == small.stat().st_size
    about = json.loads(stgv("info", small, "--json").stdout)
    assert sum(about["bytes_by_section"].values()) == about["bytes"] and about["damaged"] == {}
    for name in ("out.mp4", "out.y4m", "frames"):
        assert stgv("decode", small, tmp_path / name, "--device", "cpu").returncode == 0
        assert open_video(tmp_path / name).num_frames == 5
    assert stgv("encode", small, tmp_path / "again.stgv").returncode == 0  # with the steps that it was written with
    assert (tmp_path / "again.stgv").read_bytes() == small.read_bytes()
    coarse = tmp_path / "coarse.stgv"
    assert stgv("encode", model, coarse, "--field-bits", "4", "--color", "0.05").returncode == 0
    assert coarse.stat().st_size < small.stat().st_size
    limited = tmp_path / "limited.stgv"
    target = 0.8 * 8 * small.stat().st_size / (24 * 32 * 5)
    assert stgv("encode", model, limited, "--target-bpp", str(target)).returncode == 0
    assert 0.6 * small.stat().st_size < limited.stat().st_size <= 0.8 * small.stat().st_size
    fitted, _ = load_model(model)
    durations = {"tick": [1, 10**9], "runs": [n for k in range(5) for n in (1, 40_000_000 + k)]}
    save_model(fitted, tmp_path / "uneven.safetensors", fps=25, durations=durations)
    options = "--target-bpp", str(target), "--overwrite"
    assert stgv("encode", tmp_path / "uneven.safetensors", limited, *options).returncode == 0
    assert 0.5 * small.stat().st_size < limited.stat().st_size <= 0.8 * small.stat().st_size, "time stamps count"
    assert "target_bpp must be above 0, got -1.0" in refused(
        "encode", model, small, "--target-bpp", "-1", "--overwrite"
    )
    damaged = bytearray(small.read_bytes())
    damaged[-5] ^= 1
    (tmp_path / "bad.stgv").write_bytes(damaged)
    assert "GoP 0 fails its checksum. Their frames are black" in refused(
        "decode", tmp_path / "bad.stgv", tmp_path / "b"
    )
    assert len(list((tmp_path / "b").iterdir())) == 5
    assert "fails its checksum" in refused("encode", tmp_path / "bad.stgv", tmp_path / "worse.stgv")
    tuned = tmp_path / "tuned.stgv"
    done = stgv("encode", model, tuned, "--video", clip, "--target-bpp", str(target), "--fine-tuning", "40")
    psnr = json.loads(stgv("eval", tuned, clip, "--json").stdout)["psnr"]
    assert f"\nquality    PSNR {psnr:.2f} dB\n" in done.stderr
    assert done.returncode == 0 and tuned.stat().st_size * 8 <= target * 5 * 24 * 32, done.stderr
    assert stgv("decode", tuned, tmp_path / "tuned").returncode == 0
    small = tmp_path / "other.stgv"
    assert "quality needs --video" in refused("encode", model, small, "--quality", "30")
    video = ("--video", clip)
    assert "with --video steps are learned" in refused("encode", model, small, *video, "--color", "0.1")
    assert "fine_tuning must be at least 1" in refused("encode", model, small, *video, "--fine-tuning", "0")
    assert "does not exist" in refused("encode", model, small, "--video", tmp_path / "none.mp4")
    assert "output must end in .stgv" in refused("encode", model, tmp_path / "m.mp4")
    assert "field_bits must be from 2 to 16, got 40" in refused("encode", model, small, "--field-bits", "40")
    assert "no .stgv file" in refused("decode", _renamed(model, tmp_path / "x.stgv"), tmp_path / "c")


@pytest.fixture
def same_threads():
    """Results depend on the number of threads: other tests keep theirs."""
    before = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before[0])
    cv2.setNumThreads(before[1])


def test_a_first_fit_says_what_it_takes_and_made(clip, tmp_path, same_threads):
    out = tmp_path / "m.safetensors"
    done = stgv("fit", clip, out, "--device", "cpu", "--gaussians", "50", "--steps", "5", "--threads", "1")
    said = done.stderr.splitlines()
    assert done.returncode == 0 and torch.get_num_threads() == 1, done.stderr
    assert "frames are made smaller, from 32x24 to" in said[0] and "--size 24x32 keeps them" in said[0]
    assert "800 + 600 + 5 steps each, preset fast, profile for a CPU" in said[1]
    assert any(line.startswith("the fit takes about ") for line in said)
    psnr = json.loads(stgv("eval", out, clip, "--json").stdout)["psnr"]
    assert f"wrote {out}: PSNR {psnr:.2f} dB on 5 frames of " in done.stderr
    assert said[-1].startswith("next: stgv render ")
    assert json.loads(stgv("info", out, "--json").stdout)["psnr"] == round(psnr, 2)
    for size in ("²x4", "0x4", "12", "4x", "x"):
        assert "HEIGHTxWIDTH" in refused("fit", clip, tmp_path / "x.safetensors", "--size", size)
    assert "threads must be at least 1" in refused("fit", clip, tmp_path / "x.safetensors", "--threads", "0")


def test_rate_and_pixel_shape_go_all_the_way(tmp_path):
    """CASES E: from a video through both model files to another video; odd sides are padded, which is said."""
    frames = np.random.default_rng(0).integers(0, 255, (3, 33, 47, 3), np.uint8)
    clip, model, small = (tmp_path / name for name in ("clip.mp4", "m.safetensors", "m.stgv"))
    write_video(clip, frames, 24000 / 1001, Fraction(4, 3), chroma="444")
    steps = "--gaussians 20 --coarse-steps 2 --motion-steps 0 --steps 2 --gop-size 3 --size 33x47".split()
    assert stgv("fit", clip, model, *steps, "--device", "cpu").returncode == 0
    assert stgv("encode", model, small).returncode == 0
    done = stgv("decode", small, tmp_path / "a.mp4", "--device", "cpu")
    assert "wrote 3 frames of 47x33" in done.stderr and "the file is 48x34, since 4:2:0 needs even" in done.stderr
    assert stgv("decode", small, tmp_path / "b.mp4", "--device", "cpu", "--chroma", "444").stderr.count("\n") == 1
    assert stgv("decode", small, tmp_path / "c.y4m", "--device", "cpu").returncode == 0
    for name, size in (("a.mp4", (34, 48)), ("b.mp4", (33, 47)), ("c.y4m", (33, 47))):
        video = open_video(tmp_path / name)
        assert (video.size, video.sample_aspect) == (size, Fraction(4, 3))
        assert video.fps == pytest.approx(24000 / 1001)


def test_a_rate_that_no_model_can_say(tmp_path):
    (tmp_path / "fast.y4m").write_bytes(
        b"YUV4MPEG2 W32 H24 F2000:1 Ip A1:1 C420jpeg\n" + (b"FRAME\n" + bytes(1152)) * 3
    )
    text = refused("fit", tmp_path / "fast.y4m", tmp_path / "m.safetensors", "--device", "cpu")
    assert "fast.y4m has 2000 frames/s" in text and text.endswith("-vf setsar=1 -r 25 converted.mp4")
    assert not (tmp_path / "m.safetensors").exists()


def test_times_colours_and_a_poster_go_all_the_way(tmp_path):
    """From a video of a variable rate through both model files to another video, which is as one that was tagged so."""
    frames = np.full((6, 32, 48, 3), 20, np.uint8)
    frames[0, :16] = 200
    clip, model, small, again = (tmp_path / name for name in ("clip.mp4", "m.safetensors", "m.stgv", "n.stgv"))
    durations = {"tick": [1, 25], "runs": [3, 1, 1, 5, 2, 2]}
    write_video(clip, frames, durations=durations, color=[9, 16, 9, 0])
    hints = {"durations": durations, "color": [9, 16, 1, 0]}
    assert open_video(clip).hints() == hints | {"poster": 0}
    steps = "--gaussians 20 --coarse-steps 2 --motion-steps 0 --steps 2 --gop-size 3 --size 32x48 --device cpu".split()
    assert stgv("fit", clip, model, *steps).returncode == 0
    done = stgv("encode", model, small)
    assert done.returncode == 0 and "quality" not in done.stderr
    assert stgv("encode", small, again).returncode == 0 and again.read_bytes() == small.read_bytes()
    about = json.loads(stgv("info", small, "--json").stdout)
    assert about["durations_s"] == {"shortest": 0.04, "longest": 0.2, "together": 0.48}
    assert about["color"]["primaries"] == "BT.2020" and about["color"]["transfer"] == "PQ" and about["poster"] == 0
    assert "primaries BT.2020, transfer PQ" in stgv("info", model).stdout
    for source in (model, small):
        assert stgv("render", source, tmp_path / "a.mp4", "--device", "cpu", "--overwrite").returncode == 0
        found = open_video(tmp_path / "a.mp4").hints()
        assert {name: found[name] for name in hints} == hints
    assert stgv("render", small, tmp_path / "b.mp4", "--device", "cpu", "--fps", "10").returncode == 0
    video = open_video(tmp_path / "b.mp4")
    assert video.fps == 10 and "durations" not in video.hints()
    done = stgv("decode", small, tmp_path / "c.y4m", "--device", "cpu")
    assert "a .y4m file has no time stamps: its frames are at even times, 12.5 a second" in done.stderr
    direct = tmp_path / "direct.stgv"
    assert stgv("fit", clip, direct, *steps, "--profile", "smoke", "--keyint", "1").returncode == 0
    assert load_model(direct)[1].items() >= (hints | {"poster": 0}).items()


def test_info_of_a_video(clip):
    about = json.loads(stgv("info", clip, "--json").stdout)
    assert about["file"] == str(clip)
    assert (about["width"], about["height"], about["frames"], about["fps"]) == (32, 24, 5, 25.0)
    assert "folder of pictures" in stgv("info", clip).stdout
    assert "does not exist" in refused("info", clip / "nothing.mp4")


def _renamed(path, to):
    to.write_bytes(path.read_bytes())
    return to
