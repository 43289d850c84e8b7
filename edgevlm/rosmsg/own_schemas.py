"""Message definitions of edgevlm_msgs without comments. Generated: edit ros2_ws/src/edgevlm_msgs, then run
ros2_ws/generate_schemas.py.
"""

from __future__ import annotations

ACTION_CHUNK = "edgevlm_msgs/msg/ActionChunk"
GATE_STATUS = "edgevlm_msgs/msg/GateStatus"
HEARTBEAT = "edgevlm_msgs/msg/Heartbeat"
INFERENCE_STATS = "edgevlm_msgs/msg/InferenceStats"
PLAN = "edgevlm_msgs/msg/Plan"

SCHEMA_VERSIONS = {
    ACTION_CHUNK: 1,
    GATE_STATUS: 1,
    HEARTBEAT: 1,
    INFERENCE_STATS: 1,
    PLAN: 1,
}
BODIES = {
    ACTION_CHUNK: """\
uint8 SCHEMA_VERSION = 1
uint8 schema_version
std_msgs/Header header
uint64 session
uint64 sequence
string bundle_sha256
string instruction
string[] cameras
builtin_interfaces/Time[] frame_stamps
builtin_interfaces/Time state_stamp
builtin_interfaces/Time inference_started
builtin_interfaces/Time inference_ended
builtin_interfaces/Time valid_until
float64 step_s
string[] names
string[] units
float32[] values
""",
    GATE_STATUS: """\
uint8 SCHEMA_VERSION = 1
uint8 schema_version
string FOLLOW = follow
string HOLD = hold
string DECELERATE = decelerate
string STOP = stop
std_msgs/Header header
uint64 number
string mode
string cause
builtin_interfaces/Time since
builtin_interfaces/Time valid_until
string[] names
string[] units
float64[] values
string[] limited
builtin_interfaces/Time observed
uint64 sequence
int32 row
""",
    HEARTBEAT: """\
uint8 SCHEMA_VERSION = 1
uint8 schema_version
uint64 session
builtin_interfaces/Time stamp
bool observing
builtin_interfaces/Time observed
""",
    INFERENCE_STATS: """\
uint8 SCHEMA_VERSION = 1
uint8 schema_version
std_msgs/Header header
uint64 sequence
string error
bool warm_up
float64 step_ms
float64 latency_ms
string[] stages
float64[] stage_ms
uint64 frames_received
uint64 frames_dropped
uint64 observations_dropped
uint64 acted
uint64 failed
""",
    PLAN: """\
uint8 SCHEMA_VERSION = 1
uint8 schema_version
std_msgs/Header header
uint64 sequence
string instruction
string step
string[] steps
float32[] confidence
builtin_interfaces/Time[] waypoint_stamps
string[] names
string[] units
float32[] waypoints
""",
}
