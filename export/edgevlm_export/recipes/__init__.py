"""What differs from task to task in an export: the data, the calibration, what int8 may cost, the judge."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgevlm.manifest.schema import Task
from edgevlm_export.prepared import Prepared
from edgevlm_export.recipes.base import BundleOf, ExportOptions, Recipe
from edgevlm_export.recipes.chat import ChatRecipe
from edgevlm_export.recipes.detector import DetectorRecipe
from edgevlm_export.recipes.pictures import PictureRecipe
from edgevlm_export.recipes.policy import PolicyRecipe
from edgevlm_export.recipes.retriever import RetrieverRecipe
from edgevlm_export.recipes.scorer import ScorerRecipe

__all__ = [
    "BundleOf",
    "ChatRecipe",
    "DetectorRecipe",
    "ExportOptions",
    "PolicyRecipe",
    "Recipe",
    "RetrieverRecipe",
    "ScorerRecipe",
    "open_recipe",
]


RECIPES: Mapping[Task, type[PolicyRecipe] | type[PictureRecipe[Any]]] = {
    "chat": ChatRecipe,
    "detector": DetectorRecipe,
    "policy": PolicyRecipe,
    "retriever": RetrieverRecipe,
    "scorer": ScorerRecipe,
}


def open_recipe(prepared: Prepared, options: ExportOptions) -> Recipe:
    """The course of a checkpoint's task: its data opened and held against the model, then the weights loaded.

    Raises:
        LogError, CalibrationError, PictureError, FamilyError: the data, before anything is loaded.
        CheckpointError: the weights.
    """
    recipe: Recipe = RECIPES[prepared.task].open(prepared, options)
    return recipe
