"""What the recorder can be told by parameters."""

from __future__ import annotations

from edgevlm_ros.parameter_items import Item

ITEMS = (
    Item("output", "", "the recording to write (.mcap); empty: recording-<date>.mcap in the working directory"),
    Item("bundle", "", "directory of the policy's bundle, whose camera, state and instruction topics are recorded"),
    Item("topics", "", "YAML file that names the topics; empty: the convention, as for policy_node"),
    Item("topics_record", [""], "topics to record, also with *; empty: those of the bundle and what the nodes publish"),
    Item("flush_s", 1.0, "how often what was received becomes readable for others", 0.05, 60.0),
    Item("discovery_s", 0.2, "how often new topics are looked for", 0.05, 60.0),
)
