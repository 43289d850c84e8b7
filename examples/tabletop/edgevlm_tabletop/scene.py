"""The tabletop scene, put together from Meta-World's own parts: a Sawyer arm, three pucks, a drawer and a button."""

from __future__ import annotations

import importlib.util
import xml.etree.ElementTree as ET
from pathlib import Path

import mujoco

COLOURS = ("red", "green", "blue")
CAMERA = "front"
IMAGE_WIDTH, IMAGE_HEIGHT = 320, 240

_CAMERA_POS = (0.96, 0.20, 0.86)
_CAMERA_TARGET = (0.02, 0.735, 0.14)
_CAMERA_FOVY_DEG = 31.0
_PUCK_RGBA = {"red": "0.85 0.08 0.08 1", "green": "0.10 0.70 0.15 1", "blue": "0.10 0.25 0.90 1"}
_HIDDEN_MESHES = ("pedestal", "base", "head")

_PUCK = """<body name="puck_{colour}" pos="0 0.6 0.02">
  <joint name="puck_{colour}" type="free" limited="false" damping="0" armature="0"/>
  <inertial pos="0 0 0" mass="0.75" diaginertia="8.8e-04 8.8e-04 8.8e-04"/>
  <geom name="puck_{colour}" type="cylinder" size="0.02 0.02" rgba="{rgba}" solimp="0.99 0.99 0.01" solref="0.01 1"
        contype="1" conaffinity="1" friction="1 0.1 0.002" condim="4"/>
</body>"""

_SCENE = """<mujoco model="tabletop">
  <include file="../scene/basic_scene.xml"/>
  <include file="../objects/assets/drawer_dependencies.xml"/>
  <include file="../objects/assets/buttonbox_dependencies.xml"/>
  <include file="../objects/assets/xyz_base_dependencies.xml"/>
  <worldbody>
    <include file="../objects/assets/xyz_base.xml"/>
    <body name="drawer" pos="0.36 0.9 0"><include file="../objects/assets/drawer.xml"/></body>
    <body name="box" euler="-1.57 0 0" pos="-0.29 0.82 0.12"><include file="../objects/assets/buttonbox.xml"/></body>
    {pucks}
    <camera name="front" pos="{pos}" xyaxes="{xyaxes}" fovy="{fovy}"/>
  </worldbody>
  <actuator>
    <position ctrllimited="true" ctrlrange="-1 1" joint="r_close" kp="400" user="1"/>
    <position ctrllimited="true" ctrlrange="-1 1" joint="l_close" kp="400" user="1"/>
  </actuator>
  <equality><weld body1="mocap" body2="hand" solref="0.02 1"/></equality>
</mujoco>"""


def build_model() -> mujoco.MjModel:
    """A fresh compiled model; meshes and textures come out of the installed Meta-World wheel.

    Raises:
        ModuleNotFoundError: Meta-World is not installed (it comes with the extra `sim`).
    """
    spec = importlib.util.find_spec("metaworld")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("the tabletop simulator needs Meta-World; in your clone: pip install '.[sim]'")
    folder = Path(spec.submodule_search_locations[0]) / "assets" / "sawyer_xyz"
    pucks = "".join(_PUCK.format(colour=colour, rgba=_PUCK_RGBA[colour]) for colour in COLOURS)
    text = _SCENE.format(pucks=pucks, pos=_join(_CAMERA_POS), xyaxes=_look_at(), fovy=_CAMERA_FOVY_DEG)
    root = ET.fromstring(text)
    _expand(root, folder)
    _absolute_files(root, folder)
    model = mujoco.MjModel.from_xml_string(ET.tostring(root, encoding="unicode"))
    _lighten(model)
    return model


def _expand(element: ET.Element, folder: Path) -> None:
    """Splice every <include> in place; paths are relative to `folder`, as MuJoCo takes them."""
    for index in reversed(range(len(element))):
        child = element[index]
        if child.tag == "include":
            parts = list(ET.parse(folder / child.attrib["file"]).getroot())
            element[index : index + 1] = parts
            for part in parts:
                _expand(part, folder)
        else:
            _expand(child, folder)


def _absolute_files(root: ET.Element, folder: Path) -> None:
    for element in root.iter():
        if "file" in element.attrib:
            element.attrib["file"] = str((folder / element.attrib["file"]).resolve())


def _lighten(model: mujoco.MjModel) -> None:
    """Settings that make software rendering ten times faster, and the weld Meta-World uses for control."""
    model.vis.quality.offsamples = 0
    model.vis.quality.shadowsize = 0
    model.light_castshadow[:] = 0
    model.mat_reflectance[:] = 0
    for mesh in _HIDDEN_MESHES:
        mesh_id = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_MESH, mesh)
        model.geom_rgba[model.geom_dataid == mesh_id, 3] = 0.0
    for index in range(model.neq):
        if model.eq_type[index] == mujoco.mjtEq.mjEQ_WELD:
            model.eq_data[index] = [0, 0, 0, 0, 0, 0, -1, 0, 0, 0, 5]


def _look_at() -> str:
    forward = [t - p for t, p in zip(_CAMERA_TARGET, _CAMERA_POS, strict=True)]
    right = [forward[1], -forward[0], 0.0]
    up = [
        right[1] * forward[2] - right[2] * forward[1],
        right[2] * forward[0] - right[0] * forward[2],
        right[0] * forward[1] - right[1] * forward[0],
    ]
    return _join((*right, *up))


def _join(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:.6g}" for value in values)
