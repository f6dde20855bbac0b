"""The extractor of the mini family: features for Fréchet distance and precision/recall, and what each picture shows."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from sbv2bench.data.assets import resolve_location
from sbv2bench.errors import InputError, IntegrityError
from sbv2bench.features.base import to_tensor
from sbv2bench.features.world_network import WorldNetwork
from sbv2bench.mini.world import ATTRIBUTES, IMAGE_SIZE
from sbv2bench.specs import ExtractorSpec
from sbv2bench.weights import load_state_dict

_PATCH = 16  # pixels


class WorldExtractor:
    """WorldNetwork with the weights `model.safetensors` of the spec's location.

    spec.preparation: "" shows it the picture; "patch16" the 16 px square at its centre, enlarged by torch's bicubic to the 32 px
    that the network takes: details, as patch-FID's crops show them to Inception.
    """

    image_size = IMAGE_SIZE
    dimension = 128

    def __init__(self, spec: ExtractorSpec, device: str = "cpu") -> None:
        """Raises InputError on another preparation, PrerequisiteError if the weights are not there, IntegrityError if they are
        not a WorldNetwork's."""
        if spec.preparation not in ("", f"patch{_PATCH}"):
            raise InputError(f"extractor {spec.id}: found preparation {spec.preparation!r}, expected none or patch{_PATCH}")
        self.spec = spec
        self.device = device
        path = resolve_location(spec.location) / "model.safetensors"
        self.network = WorldNetwork()
        state = {name: value.float() for name, value in load_state_dict(path).items()}
        # A batch count is of no use after training, so shipped weights have none.
        counters = {name: value for name, value in self.network.state_dict().items() if name.endswith("num_batches_tracked")}
        try:
            self.network.load_state_dict(counters | state)
        except RuntimeError as error:
            what = str(error).splitlines()[-1].strip()
            raise IntegrityError(f"{path}: not the weights of an attribute extractor ({what})") from error
        self.network.eval().requires_grad_(False).to(device)

    def __call__(self, images_BHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Features [B, 128] float32, >= 0."""
        return self.predict(images_BHWC)[0]

    def predict(self, images_BHWC: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Features [B, 128] float32 and the value read for each attribute, int64 [B, 9] (columns of `world.ATTRIBUTES`).

        The second object's attributes are read from any picture, also where there is one object only.
        """
        with torch.inference_mode():
            features, logits = self.network(self._pixels(images_BHWC) / 127.5 - 1.0)
            read = torch.stack([logits[name].argmax(1) for name in ATTRIBUTES], dim=1)
        return features.cpu().numpy(), read.cpu().numpy()

    def _pixels(self, images_BHWC: NDArray[np.uint8]) -> torch.Tensor:
        if not self.spec.preparation:
            return to_tensor(images_BHWC, self.device)
        margin = (IMAGE_SIZE - _PATCH) // 2
        patch = to_tensor(images_BHWC[:, margin:-margin, margin:-margin], self.device)
        return functional.interpolate(patch, IMAGE_SIZE, mode="bicubic").clamp(0, 255)


class WorldAttributes(WorldExtractor):
    """The same network, called for the value that it reads of each attribute."""

    def __call__(self, images_BHWC: NDArray[np.uint8]) -> NDArray[np.int64]:  # type: ignore[override]
        """int64 [B, 9], columns of `world.ATTRIBUTES`."""
        return self.predict(images_BHWC)[1]
