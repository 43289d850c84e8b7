"""What vlm_node can be told by parameters."""

from __future__ import annotations

from edgevlm_ros.parameter_items import AUTOSTART, Item

ITEMS = (
    *AUTOSTART,
    Item("bundle", "", "directory of a bundle that answers in text"),
    Item("transport", "raw", "raw (image_raw) or compressed (image_raw/compressed)"),
    Item("question", "", "what is asked every period_s; empty: a caption, of a model that needs no words", always=True),
    Item("period_s", 0.0, "how often the question is asked; 0: never", 0.0, 86_400.0),
    Item("choices", [""], "when given, `decision` gets the one of them that the answer names", always=True),
    Item("max_new_tokens", 32, "longest answer", 1, 4096, always=True),
    Item("max_age_s", 1.0, "oldest frame to answer about", 0.001, 3600.0, always=True),
)
