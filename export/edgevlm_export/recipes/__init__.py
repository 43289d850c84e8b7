"""What differs from task to task in an export: the data, the calibration, what int8 may cost, the judge."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgevlm.manifest.schema import Task
from edgevlm_export.prepared import Prepared
from edgevlm_export.recipes.base import Beside, Course, ExportOptions, Models
from edgevlm_export.recipes.chat import ChatCourse
from edgevlm_export.recipes.detector import DetectorCourse
from edgevlm_export.recipes.pictures import PictureCourse
from edgevlm_export.recipes.policy import PolicyCourse
from edgevlm_export.recipes.retriever import RetrieverCourse
from edgevlm_export.recipes.scorer import ScorerCourse

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


COURSES: Mapping[Task, type[PolicyCourse] | type[PictureCourse[Any]]] = {
    "chat": ChatCourse,
    "detector": DetectorCourse,
    "policy": PolicyCourse,
    "retriever": RetrieverCourse,
    "scorer": ScorerCourse,
}


def open_course(prepared: Prepared, options: ExportOptions) -> Course:
    """The course of a checkpoint's task: its data opened and held against the model, then the weights loaded.

    Raises:
        LogError, CalibrationError, PictureError, FamilyError: the data, before anything is loaded.
        CheckpointError: the weights.
    """
    course: Course = COURSES[prepared.task].open(prepared, options)
    return course
