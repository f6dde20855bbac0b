"""The Inception of every FID (inception-2015-12-05), pool3, from uint8 images prepared in one of three ways.

clean299: clean-fid's resize, each channel as float32 by Pillow's antialiased bicubic, clipped to [0, 255], not rounded.
tf1: the bilinear resize of TensorFlow 1, no antialiasing, corners and pixel centres not aligned.
patch299: the 299 x 299 pixels at the centre, as they are: patch-FID as DMD2's code has it (main/coco_eval/coco_evaluator.py), one
crop an image, half a margin rounded to even (torchvision's center_crop); LakonLab rounds down. A picture with a side below 299 is
not cropped there but resized whole by clean-fid, for the line that raises is commented out. For photographs it is so here too, or
COCO's small ones could not be compared with; generated pictures that small are refused: theirs would be plain FID under another
name. Chai et al. 2022's patch FID, of random patches at many scales, is another metric.
They give different numbers, so each is an extractor of its own.

The network is torchvision's Inception3 with the three blocks in which the TensorFlow graph pools differently: torchvision
is here anyway (open_clip needs it), while torch-fidelity's blocks would make a test oracle a run-time dependency. So
torch-fidelity's network, written independently, is what the tests compare with.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import torch
from cleanfid.resize import build_resizer
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional
from torchvision.models import inception

from sbv2bench.data.extractor_files import weights_file
from sbv2bench.errors import InputError
from sbv2bench.features.base import to_tensor
from sbv2bench.specs import ExtractorSpec
from sbv2bench.weights import compare_keys, load_state_dict

SIZE = 299
DIMENSION = 2048
_CLASSES = 1008
_clean_resize = build_resizer("clean")


def _mean_of_neighbours(x: Tensor) -> Tensor:
    """TensorFlow's average pool: the padding is no part of the average."""
    return functional.avg_pool2d(x, kernel_size=3, stride=1, padding=1, count_include_pad=False)


def _largest_neighbour(x: Tensor) -> Tensor:
    return functional.max_pool2d(x, kernel_size=3, stride=1, padding=1)


class _BlockA(inception.InceptionA):
    def _forward(self, x: Tensor) -> list[Tensor]:
        five = self.branch5x5_2(self.branch5x5_1(x))
        three = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return [self.branch1x1(x), five, three, self.branch_pool(_mean_of_neighbours(x))]


class _BlockC(inception.InceptionC):
    def _forward(self, x: Tensor) -> list[Tensor]:
        seven = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        double = self.branch7x7dbl_5(self.branch7x7dbl_4(double))
        return [self.branch1x1(x), seven, double, self.branch_pool(_mean_of_neighbours(x))]


class _BlockE(inception.InceptionE):
    pool: Callable[[Tensor], Tensor] = staticmethod(_mean_of_neighbours)

    def _forward(self, x: Tensor) -> list[Tensor]:
        three = self.branch3x3_1(x)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        threes = [self.branch3x3_2a(three), self.branch3x3_2b(three)]
        doubles = [self.branch3x3dbl_3a(double), self.branch3x3dbl_3b(double)]
        return [self.branch1x1(x), *threes, *doubles, self.branch_pool(type(self).pool(x))]


class _LastBlock(_BlockE):
    pool = staticmethod(_largest_neighbour)  # as the graph of 2015 has it, in its last block only


def fid_inception() -> torch.nn.Module:
    """The network with random weights: [B, 3, 299, 299] in [-1, 1] to 1008 logits; tensors named as in pytorch-fid's file."""
    usual = (inception.BasicConv2d, _BlockA, inception.InceptionB, _BlockC, inception.InceptionD, _BlockE, None)
    network: torch.nn.Module = inception.Inception3(_CLASSES, aux_logits=False, inception_blocks=list(usual), init_weights=False)
    network.Mixed_7c = _LastBlock(DIMENSION)
    return network.eval()


class InceptionExtractor:
    """pool3 of the network with the state dict of the spec's location: features [B, 2048] float32, >= 0.

    spec.preparation: "clean299", "tf1" or "patch299"; spec.channels: "bgr" shows it the channels in reverse, as the paper's
    precision/recall did.
    """

    image_size = None
    smallest_side = 1  # of the pictures that a model may be measured by
    dimension = DIMENSION

    def __init__(self, spec: ExtractorSpec, device: str = "cpu") -> None:
        """Raises InputError on another preparation, PrerequisiteError where the weights are not there, IntegrityError where
        they are not this network's or a pickle that is not the well-known file."""
        prepare = {"clean299": clean299, "tf1": tf1_299, "patch299": patch299}.get(spec.preparation)
        if prepare is None:
            raise InputError(f"extractor {spec.id}: found preparation {spec.preparation!r}, expected clean299, tf1 or patch299")
        self.spec, self.device, self.prepare = spec, device, prepare
        self.smallest_side = SIZE if prepare is patch299 else 1
        path = weights_file(spec)
        with torch.device("meta"):  # nobody needs the random weights
            network = fid_inception()
        expected = network.state_dict()
        # Older files have no batch counters, and no feature depends on them.
        counters = {name: torch.tensor(0) for name in expected if name.endswith("num_batches_tracked")}
        state = counters | load_state_dict(path, known=True)  # weights_file has proved it
        compare_keys(state, expected, str(path))
        network.load_state_dict(state, assign=True)
        network.fc = torch.nn.Identity()  # its forward pass ends in pool3 then
        self._layout = torch.channels_last if device == "cpu" else torch.contiguous_format  # a quarter faster on a CPU
        self.network = network.float().requires_grad_(False).to(device).to(memory_format=self._layout)

    def __call__(self, images_BHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        """pool3 features [B, 2048] float32 of uint8 RGB images [B, H, W, 3] of any size."""
        with torch.inference_mode():
            pixels = self.prepare(images_BHWC, self.device)
            if self.spec.channels == "bgr":
                pixels = pixels.flip(1)
            inputs = ((pixels - 128) / 128).contiguous(memory_format=self._layout)
            features: NDArray[np.float32] = self.network(inputs).cpu().numpy()
        return features


def clean299(images_BHWC: NDArray[np.uint8], device: str = "cpu") -> Tensor:
    """float32 [B, 3, 299, 299] in [0, 255]: clean-fid's "clean" resize of uint8 RGB images [B, H, W, 3].

    On the CPU clean-fid's own function; elsewhere, where its one-image loop would be the slowest part of a run, products
    with Pillow's weights, which differ from it by rounding only (at most 1e-4 of 255).
    """
    if device != "cpu":
        return clean299_by_products(to_tensor(images_BHWC, device))
    to_tensor(images_BHWC, "cpu")  # raises on another shape or dtype
    resized = np.stack([_clean_resize(image) for image in images_BHWC])
    return torch.from_numpy(resized).permute(0, 3, 1, 2)


def patch299(images_BHWC: NDArray[np.uint8], device: str = "cpu") -> Tensor:
    """float32 [B, 3, 299, 299] in [0, 255]: the centres of uint8 RGB images [B, H, W, 3]; of a side below 299 `clean299`."""
    height, width = images_BHWC.shape[1:3]
    if min(height, width) < SIZE:
        return clean299(images_BHWC, device)
    top, left = round((height - SIZE) / 2), round((width - SIZE) / 2)
    return to_tensor(images_BHWC[:, top : top + SIZE, left : left + SIZE], device)


def clean299_by_products(pixels_BCHW: Tensor) -> Tensor:
    """The same from float32 [B, 3, H, W] in [0, 255] as two matrix products, on the device of the pixels."""
    height, width = (_bicubic_weights(size).to(pixels_BCHW.device) for size in pixels_BCHW.shape[-2:])
    return (height.T @ (pixels_BCHW @ width)).clamp(0, 255)


@functools.cache
def _bicubic_weights(size: int) -> Tensor:
    """[size, 299] float32: what each of `size` pixels in a row gives to each of 299 by Pillow's bicubic, read off Pillow."""
    resized = Image.fromarray(np.eye(size, dtype=np.float32)).resize((SIZE, size), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(resized))


def tf1_299(images_BHWC: NDArray[np.uint8], device: str = "cpu") -> Tensor:
    """float32 [B, 3, 299, 299] in [0, 255]: TensorFlow 1's ResizeBilinear of uint8 RGB images [B, H, W, 3].

    A pixel's source is its own coordinate times in/out, with neither half a pixel's shift nor antialiasing; beyond the last
    pixel there is that pixel again. Along rows first, then along columns, in float32, as the kernel does.
    """
    pixels = to_tensor(images_BHWC, device)
    for axis in (3, 2):
        size = pixels.shape[axis]
        source = torch.arange(SIZE, dtype=torch.float32, device=device) * torch.tensor(size / SIZE, dtype=torch.float32)
        low = source.long()
        high = (low + 1).clamp_max(size - 1)
        share = (source - low).view(-1, *[1] * (3 - axis))
        near = pixels.index_select(axis, low)
        pixels = near + (pixels.index_select(axis, high) - near) * share
    return pixels
