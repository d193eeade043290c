"""Metrics against scikit-image and by hand, on real frames."""

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio

from stgvlib import metrics
from stgvlib.metrics import bd_rate, decode_fps, evaluate, ms_ssim, psnr, to_uint8
from stgvlib.video import datasets


@pytest.fixture(scope="module")
def frames():
    return datasets.load_dataset("bunny").scaled(0.3).read(0, 3)


def test_psnr_is_scikit_images(frames):
    target = torch.from_numpy(frames[0]).float() / 255
    noisy = target + 0.03 * torch.randn(target.shape, generator=torch.Generator().manual_seed(0))
    expected = peak_signal_noise_ratio(target.numpy(), noisy.clamp(0, 1).numpy(), data_range=1)
    assert psnr(noisy, target) == pytest.approx(expected, abs=1e-4)
    rounded = to_uint8(noisy)
    result = evaluate([noisy], [frames[0]])
    assert result["psnr_8bit"] == pytest.approx(peak_signal_noise_ratio(frames[0], rounded.numpy()), abs=1e-4)


def test_mean_is_over_frames_not_over_pixels(frames):
    images = [torch.from_numpy(f).float() / 255 + e for f, e in zip(frames, (0.01, 0.02, 0.1))]
    result = evaluate(images, frames)
    each = [psnr(i, torch.from_numpy(f).float() / 255) for i, f in zip(images, frames)]
    assert result["psnr"] == pytest.approx(np.mean(each)) and result["frames"] == 3


def test_ms_ssim(frames):
    """1 for the same frame, falling with noise; MS-SSIM of real frames, or nothing where they are too small."""
    target = torch.from_numpy(frames[0]).float() / 255
    noise = torch.randn(target.shape, generator=torch.Generator().manual_seed(0))
    values = [ms_ssim(target + s * noise, target) for s in (0.0, 0.03, 0.1)]
    assert values[0] == pytest.approx(1.0, abs=1e-6) and values[0] > values[1] > values[2] > 0.3
    assert ms_ssim(target[:160], target[:160]) is None
    assert evaluate([target[:100]], [frames[0][:100]])["ms_ssim"] is None


def test_ms_ssim_on_a_cpu_is_pytorch_msssims(frames):
    """OpenCV's filter in place of torch's, at odd sizes too."""
    from pytorch_msssim import ms_ssim as reference

    noise = torch.randn(frames[0].shape, generator=torch.Generator().manual_seed(0))
    for strength, crop in ((0.05, (192, 384)), (0.2, (171, 203)), (1.0, (161, 162))):
        target = torch.from_numpy(frames[0]).float()[: crop[0], : crop[1]] / 255
        image = (target + strength * noise[: crop[0], : crop[1]]).clamp(0, 1)
        expected = reference(*(v.permute(2, 0, 1)[None] for v in (image, target)), data_range=1).item()
        assert ms_ssim(image, target) == pytest.approx(expected, abs=5e-6) and expected < 0.99


def test_yuv_planes_are_ffmpegs(frames):
    """BT.709, limited range, against FFmpeg's conversion to 4:4:4 in 8 bits; chroma is then the mean of 2x2."""
    import av
    from av.video.reformatter import ColorRange, Colorspace

    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(frames[0]), format="rgb24")
    told = {"dst_colorspace": Colorspace.ITU709, "src_color_range": ColorRange.JPEG, "dst_color_range": ColorRange.MPEG}
    expected = frame.reformat(format="yuv444p", **told).to_ndarray().astype(float)
    luma, chroma = metrics.yuv_420(torch.from_numpy(frames[0]) / 255)  # against black: 16, 128, 128
    assert np.abs(16 + 255 * luma.numpy() - expected[0]).max() < 1.1
    halves = expected[1:].reshape(2, 96, 2, 192, 2).mean((2, 4))
    assert np.abs(128 + 255 * chroma.numpy() - halves).max() < 1.1


def test_psnr_yuv_weighs_planes_six_one_one(frames):
    """By hand, at an odd size: extreme colours have the standard's values, and each plane its weight."""
    colours = torch.tensor([[[0.0, 0, 0], [1, 1, 1], [1, 0, 0]]]).expand(3, 3, 3)
    luma, chroma = metrics.yuv_420(colours)
    assert (255 * luma[0]).tolist() == pytest.approx([0, 219, 219 * 0.2126])
    assert (255 * chroma[1, 0]).tolist() == pytest.approx([0, 112], abs=1e-4)  # of red alone 112, of black and white 0
    target = torch.from_numpy(frames[0]).float()[:101, :77] / 255
    image = target + 0.02 * torch.randn(target.shape, generator=torch.Generator().manual_seed(0))
    planes = [[p[0], *p[1]] for p in (metrics.yuv_420(v.clamp(0, 1)) for v in (image, target))]
    values = [peak_signal_noise_ratio(b.numpy(), a.numpy(), data_range=1) for a, b in zip(*planes)]
    expected = (6 * values[0] + values[1] + values[2]) / 8
    assert metrics.psnr_yuv(image, target) == pytest.approx(expected, abs=1e-4)
    assert abs(values[0] - values[1]) > 1 and evaluate([image], [(255 * target).byte()])["psnr_yuv"] > 30
    assert metrics.psnr_yuv(target, target) == pytest.approx(120)
    assert evaluate([image], [(255 * target).byte()], similarity=False)["psnr_yuv"] is None


def test_eight_bits_round_and_clamp():
    assert to_uint8(torch.tensor([-1.0, 0.4999 / 255, 0.5001 / 255, 1.0, 7.0])).tolist() == [0, 0, 1, 255, 255]


def test_lengths_and_shapes_must_agree(frames):
    image = torch.zeros(192, 384, 3)
    with pytest.raises(ValueError):
        evaluate([image], frames)
    with pytest.raises(ValueError, match="at least one frame"):
        evaluate([], [])
    with pytest.raises(ValueError, match="frames must both be"):
        psnr(image, image[:10])


def test_decode_fps_counts_calls(monkeypatch):
    calls, clock = [], [0.0]
    monkeypatch.setattr(metrics.time, "perf_counter", lambda: clock[0])

    def render(i):
        calls.append(i)
        clock[0] += 0.01
        return torch.zeros(1)

    assert decode_fps(render, 4, seconds=0.2) == pytest.approx(100)
    assert set(calls) == {0, 1, 2, 3}


def test_bd_rate():
    """Half the rate at every quality is -50 %, twice is +100 %; curves that cannot be compared are refused."""
    curve = [(0.02 * 2**k, 30 + 2.5 * k) for k in range(5)]
    for factor in (0.5, 2.0):
        other = [(factor * rate, quality) for rate, quality in curve]
        assert bd_rate(curve, other) == pytest.approx(100 * (factor - 1), abs=1e-6)
    assert bd_rate(curve, curve[::-1]) == pytest.approx(0)
    with pytest.raises(ValueError, match="four points"):
        bd_rate(curve, curve[:3])
    with pytest.raises(ValueError, match="rising with the rate"):
        bd_rate(curve, [(rate, 30.0) for rate, _ in curve])
    with pytest.raises(ValueError, match="share too few qualities"):
        bd_rate(curve, [(rate, quality + 9) for rate, quality in curve])
