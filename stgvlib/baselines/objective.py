"""What a training step of an implicit network minimises: pictures or pixels against the video's, by their numbers.

l2              mean squared error
l1_ssim         0.7 L1 + 0.3 (1 - SSIM)                                     E-NeRV
l1_ms_ssim_fft  60 (0.7 L1 + 0.3 (1 - MS-SSIM)) + mean |Re|, |Im| of the FFT of the error     HNeRV-Boost
"""

import torch
from torch import Tensor, nn

from stgvlib.baselines.hnerv import HNerv
from stgvlib.baselines.siren import Siren
from stgvlib.metrics import MS_SSIM_LEAST

SCALES = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # exponents of MS-SSIM's five scales (Wang et al. 2003)
C1, C2 = 0.01**2, 0.03**2  # of SSIM, for values in [0, 1]
SPATIAL = 60.0  # weight of L1 and MS-SSIM beside the FFT's term


def pictures(images: Tensor, numbers: Tensor) -> Tensor:
    """Frames by number, int64 [B], of uint8 [T, H, W, 3] -> [B, 3, H, W] in [0, 1]."""
    return images[numbers].movedim(-1, 1).float() / 255


class Objective(nn.Module):
    """(loss, MSE without gradient) of frames or pixels by their numbers. `bf16`: precision of the network on a GPU."""

    def __init__(self, network: nn.Module, loss: str, bf16: bool, weights: Tensor | None = None):  # uint8 [T, H, W]
        super().__init__()
        self.network, self.loss, self.bf16 = network, loss, bf16
        self.register_buffer("weights", weights)
        self.spectral_distance = spectral_distance
        if any(p.is_cuda for p in network.parameters()):  # torch.compile has no complex numbers, and loads for seconds
            self.spectral_distance = torch.compiler.disable(spectral_distance)
        window = torch.exp(-((torch.arange(11) - 5.0) ** 2) / (2 * 1.5**2))
        self.register_buffer("window", (window / window.sum()).repeat(3, 1, 1, 1))  # of SSIM, [3, 1, 1, 11]

    def forward(self, images: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
        network = self.network
        with torch.autocast("cuda", torch.bfloat16, enabled=images.is_cuda and self.bf16):
            if isinstance(network, Siren):
                pixels = images[0, ..., 0].numel()
                shown = network.colors(network.points(chosen // pixels, chosen % pixels))
                target = images.view(-1, 3)[chosen].float() / 255
            else:
                target = pictures(images, chosen)
                embedded = isinstance(network, HNerv)
                shown = network.decode(network.encode(target), chosen) if embedded else network(chosen)
        shown = shown.float().contiguous()
        if self.weights is not None:
            counts = self.weights[chosen][:, None].float() / 255
            mse = ((shown - target).square() * counts).sum() / (3 * counts.sum().clamp(min=1))
            return mse, mse.detach()
        mse = nn.functional.mse_loss(shown, target)
        if self.loss == "l2":
            return mse, mse.detach()
        target, distance = target.contiguous(), nn.functional.l1_loss(shown, target)
        if self.loss == "l1_ssim":
            from pytorch_msssim import ssim

            similarity = ssim(shown, target, data_range=1, win=self.window)
            return 0.7 * distance + 0.3 * (1 - similarity), mse.detach()
        spatial = 0.7 * distance + 0.3 * (1 - similarity_over_scales(shown, target, self.window))
        return SPATIAL * spatial + self.spectral_distance(shown, target), mse.detach()


def similarity_over_scales(x: Tensor, y: Tensor, window: Tensor) -> Tensor:
    """MS-SSIM of pictures [B, 3, H, W] in [0, 1]; SSIM where a side is too short for five scales.

    pytorch-msssim computes the same, but copies its exponents from the host and asks the GPU for zeros in its gradient,
    so that a CUDA graph cannot have it. window: [3, 1, 1, 11], sums to 1.
    """
    exponents = SCALES if min(x.shape[2:]) >= MS_SSIM_LEAST else (1.0,)
    product = torch.ones(x.shape[:2], device=x.device)
    for level, exponent in enumerate(exponents):
        if level:
            odd = [side % 2 for side in x.shape[2:]]
            x, y = (nn.functional.avg_pool2d(v, 2, padding=odd) for v in (x, y))
        maps = torch.cat([x, y, x * x, y * y, x * y])
        for dim, taps in ((2, window.mT), (3, window)):
            if maps.shape[dim] >= window.shape[-1]:
                maps = nn.functional.conv2d(maps, taps, groups=3)
        mean_x, mean_y, xx, yy, xy = maps.chunk(5)
        variances, covariance = xx - mean_x**2 + yy - mean_y**2, xy - mean_x * mean_y
        found = (2 * covariance + C2) / (variances + C2)
        if level == len(exponents) - 1:
            found = found * (2 * mean_x * mean_y + C1) / (mean_x**2 + mean_y**2 + C1)
        product = product * found.mean((2, 3)).relu() ** exponent
    return product.mean()


def spectral_distance(x: Tensor, y: Tensor) -> Tensor:
    """Mean absolute difference of the real and imaginary parts of both pictures' FFT, not normalised."""
    return torch.view_as_real(torch.fft.fft2(x - y)).abs().mean()
