"""A module as a chain of pieces over named tensors, so that what repeats is traced once.

Tracing takes seconds for each layer of a transformer, and all of them are one function with other weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

Examples = tuple[tuple[Tensor, ...], tuple[Tensor, ...]]


@dataclass(frozen=True)
class Piece:
    """One call: which tensors it reads and what it calls its results.

    Attributes:
        kind: pieces of one kind are one function; only their weights differ.
    """

    name: str
    kind: str
    module: nn.Module
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


class Chain(nn.Module):
    """Pieces, run one after the other.

    Args:
        inputs, outputs: names of the chain's arguments and results, in their order.
        examples: arguments of two sizes; a dimension that differs between them is a dynamic one.
    """

    def __init__(
        self, pieces: Sequence[Piece], inputs: tuple[str, ...], outputs: tuple[str, ...], examples: Examples
    ) -> None:
        super().__init__()
        self.pieces, self.inputs, self.outputs, self.examples = tuple(pieces), inputs, outputs, examples
        self.modules_of_pieces = nn.ModuleList([piece.module for piece in pieces])

    def forward(self, *given: Tensor) -> tuple[Tensor, ...]:
        """The results."""
        known = self.tensors(given)
        return tuple(known[name] for name in self.outputs)

    def tensors(self, given: Sequence[Tensor]) -> dict[str, Tensor]:
        """Every tensor by its name, those between the pieces as well."""
        known = dict(zip(self.inputs, given, strict=True))
        for piece in self.pieces:
            known.update(zip(piece.outputs, run_piece(piece, known), strict=True))
        return known


def run_piece(piece: Piece, known: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
    """The results of one piece."""
    results = piece.module(*(known[name] for name in piece.inputs))
    return results if isinstance(results, tuple) else (results,)


class WithWeights(nn.Module):
    """A module as a function of its weights as well: `forward(*weights, *inputs)`."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        # In a tuple the module is no child, so its weights are no parameters of this one.
        self._hidden = (module,)
        self.names = tuple(module.state_dict())

    def forward(self, *given: Tensor) -> tuple[Tensor, ...]:
        """The module's results."""
        weights = dict(zip(self.names, given, strict=False))
        results = torch.func.functional_call(self._hidden[0], weights, tuple(given[len(self.names) :]))
        return results if isinstance(results, tuple) else (results,)
