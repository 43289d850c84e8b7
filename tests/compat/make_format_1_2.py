"""Write tests/compat/format_1_2: chats, and what they answered when they were made.

Run `python tests/compat/make_format_1_2.py` once for the format; what a release has written is never written again.
Needs neither torch nor onnx: the stages come from tests/support/stages.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from support import talker

import edgevlm
from edgevlm.bundle import write_record
from edgevlm.manifest.schema import FORMAT

PLACE = Path(__file__).parent / "format_1_2"
BUNDLES: dict[str, dict[str, Any]] = {
    "chat": {},
    "chat_whole": {"words": {**talker.PLAIN, "needs_picture": True}, "prefix": "bidirectional", "first_position": 1},
}
QUESTIONS = ("what is it?", "where is it?", "où est-ce ? 🙂")


def answer(root: Path) -> dict[str, Any]:
    """What a bundle says of two pictures, one after the other."""
    answers = []
    with edgevlm.load_chat(root) as chat:
        for seed in (1, 2):
            for question in QUESTIONS:
                one = chat.ask(talker.picture(seed), question, max_new_tokens=10)
                answers.append({"token_ids": list(one.token_ids), "text": one.text, "prompt_tokens": one.prompt_tokens})
        return {"bundle_sha256": chat.bundle.sha256, "answers": answers, "stage_runs": dict(chat.stage_runs)}


def main() -> None:
    """Both bundles and their answers."""
    if FORMAT != "edgevlm.bundle/1.2":
        raise SystemExit(
            f"this script made bundles of format 1.2; this version writes {FORMAT}: copy it under another name"
        )
    for name, more in BUNDLES.items():
        root = talker.chat(PLACE / name, **more)
        write_record(root, "answer", answer(root))


if __name__ == "__main__":
    main()
