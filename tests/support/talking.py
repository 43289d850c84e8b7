"""An open chat over counted engines, and what it should say by its driver alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from support import talker, tiny

from edgevlm.bundle import open_bundle
from edgevlm.drivers import DecoderDriver, ImageToken, Prompt
from edgevlm.graph import Value
from edgevlm.options import RuntimeOptions
from edgevlm.tasks import Chat

OPTIONS = RuntimeOptions(intra_threads=1)


class Opened:
    """A chat over counted engines."""

    def __init__(self, root: Path) -> None:
        self.engines = tiny.Counted()
        self.chat = Chat(open_bundle(root), OPTIONS, engines=self.engines)


def by_hand(chat: Chat, image: Any, text: str, count: int, bidirectional: bool = False) -> list[int]:
    """Greedy tokens from the driver alone: all read anew for every token, but the `bidirectional` prefix."""
    prepared = chat.prepare(image, text)
    driver: DecoderDriver = chat.generator.driver
    features = iter(
        ImageToken((picture, tile), place)
        for picture, pixels in enumerate(prepared.pixels)
        for tile in range(len(pixels))
        for place in range(talker.FEATURES)
    )
    row: list[int | ImageToken] = [next(features) if token == talker.IMAGE else token for token in prepared.ids]
    tiles = {
        (picture, tile): Value(("by hand", picture, tile), pixels[tile : tile + 1])
        for picture, pixels in enumerate(prepared.pixels)
        for tile in range(len(pixels))
    }
    answer: list[int] = []
    while len(answer) < count:
        cache, memory = driver.cache(), driver.memory()
        logits, _ = driver.read(Prompt((*row, *(() if bidirectional else answer)), tiles), cache, memory)
        for token in answer if bidirectional else ():
            logits = driver.step(token, cache, memory)
        if int(np.argmax(logits)) == talker.END:
            break
        answer.append(int(np.argmax(logits)))
    return answer
