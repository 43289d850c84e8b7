"""`resize_with_pad` is what LeRobot computes with torch, to the last digits of a float32."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgevlm.manifest.image_ops import Normalize, ResizeWithPad
from edgevlm.preprocess import PicturePreprocessor

PLAIN = Normalize(scale=1.0, mean=(0, 0, 0), std=(1, 1, 1))
SIZES = [(480, 640), (1080, 1920), (37, 53), (512, 512), (256, 512), (3, 5), (333, 777), (700, 100)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("target", [(512, 512), (64, 48)])
def test_resize_with_pad_is_torch_s(size: tuple[int, int], target: tuple[int, int]) -> None:
    image = np.random.default_rng(size[0]).integers(0, 256, (*size, 3), np.uint8)
    height, width = target
    ratio = max(size[1] / width, size[0] / height)
    inner = int(size[0] / ratio), int(size[1] / ratio)
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
    shrunk = torch.nn.functional.interpolate(pixels, size=inner, mode="bilinear", align_corners=False)
    expected = torch.nn.functional.pad(shrunk, (width - inner[1], 0, height - inner[0], 0))
    created = PicturePreprocessor([ResizeWithPad(width=width, height=height), PLAIN])(image)
    np.testing.assert_allclose(created, expected.numpy(), atol=1e-6, rtol=0)
