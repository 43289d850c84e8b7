"""What differs from task to task in an export: the data, the calibration, what int8 may cost, the judge."""

from __future__ import annotations

from edgevlm_export.courses.base import Beside, Course, ExportOptions, Models
from edgevlm_export.courses.chat import ChatCourse
from edgevlm_export.courses.detector import DetectorCourse
from edgevlm_export.courses.policy import PolicyCourse
from edgevlm_export.courses.retriever import RetrieverCourse
from edgevlm_export.courses.scorer import ScorerCourse
from edgevlm_export.stage_graph import DetectorGraph, PolicyGraph, RetrieverGraph, ScorerGraph, StageGraph, TalkGraph

__all__ = [
    "Beside",
    "ChatCourse",
    "Course",
    "DetectorCourse",
    "ExportOptions",
    "Models",
    "PolicyCourse",
    "RetrieverCourse",
    "ScorerCourse",
    "open_course",
]


def open_course(graph: StageGraph, options: ExportOptions) -> Course:
    """The course of this graph's task, with its data opened.

    Raises:
        LogError, CalibrationError, PictureError: the data.
    """
    if isinstance(graph, PolicyGraph):
        return PolicyCourse.open(graph, options)
    if isinstance(graph, TalkGraph):
        return ChatCourse.open(graph, options)
    if isinstance(graph, ScorerGraph):
        return ScorerCourse.open(graph, options)
    if isinstance(graph, DetectorGraph):
        return DetectorCourse.open(graph, options)
    assert isinstance(graph, RetrieverGraph)
    return RetrieverCourse.open(graph, options)
