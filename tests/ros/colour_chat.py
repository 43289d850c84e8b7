"""vlm_node with a model that tells the colour of a picture: a wrong picture gives a wrong answer."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgevlm_ros.lifecycle_node import run
from edgevlm_ros.vlm_node import VlmNode

NAMES = ("red", "green", "blue")


@dataclass(frozen=True)
class Answer:
    text: str
    token_ids: tuple[int, ...]


class ColourChat:
    """Names the strongest channel, with as many words as it may.

    "crash" raises, "slowly" takes half a second, "for ever" ends when it is cancelled.
    """

    needs_text = True

    def ask(self, *, image: NDArray[np.uint8], text: str, max_new_tokens: int, cancel: threading.Event) -> Answer:
        if "crash" in text:
            raise RuntimeError("the model broke")
        if "slowly" in text:
            time.sleep(0.5)
        if "for ever" in text:
            cancel.wait(60)
        strongest = int(np.argmax(image.reshape(-1, 3).mean(axis=0)))
        words = ["it", "is", NAMES[strongest]][-max_new_tokens:]
        return Answer(" ".join(words), tuple(range(strongest, strongest + len(words))))

    def close(self) -> None:
        pass


if __name__ == "__main__":
    run(lambda: VlmNode(lambda path: ColourChat()))
