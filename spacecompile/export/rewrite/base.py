"""What every rewrite pass is: `requires`, `apply`, and a proof that a pass can't skip."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from typing import final

import torch

from spacecompile.contract import Cost, PassReport
from spacecompile.errors import BuildError, first_line_of
from spacecompile.export.rewrite.proof import PassProofSettings, relative_errors
from spacecompile.network.count import cost_of
from spacecompile.network.model import MultiTaskNetwork

_FAILURES = (RuntimeError, TypeError, ValueError, AttributeError, AssertionError, IndexError, KeyError)
"""What a pass, or the code of timm and smp that it calls, raises on a network that it was not made for."""


class UnprovenError(BuildError):
    """A pass failed, or could not prove itself.

    Attributes:
        reason: What went wrong, without the name of the pass.
    """

    def __init__(self, pass_name: str, reason: str) -> None:
        super().__init__(f"rewrite pass {pass_name} {reason}. Build with --no-rewrite, and report the network's spec.")
        self.reason = reason


class Pass(ABC):
    """One exact rewrite of a network.

    A subclass says where it applies and what it does; `run` is the same for all and always ends with the proof.
    """

    name: str
    """Name in reports and errors, lower case with underscores."""

    @abstractmethod
    def requires(self, network: MultiTaskNetwork) -> bool:
        """Whether the network holds anything that this pass rewrites. Must not change the network."""

    @abstractmethod
    def apply(self, network: MultiTaskNetwork) -> MultiTaskNetwork:
        """Rewrite the network in place and return it. Only called when `requires` holds.

        Args:
            network: Private copy in float64 and evaluation mode.
        """

    @final
    def ensures(self, before: MultiTaskNetwork, after: MultiTaskNetwork, settings: PassProofSettings) -> float:
        """Prove that both networks give the same answers.

        Args:
            before: Network before the pass, in float64 and evaluation mode.
            after: Network after the pass, in float64 and evaluation mode.
            settings: Input and limit of the proof.

        Returns:
            The largest relative error of any output.

        Raises:
            UnprovenError: If it exceeds the limit; names the pass and the output.
        """
        errors = relative_errors(before, after, settings)
        worst = max(errors, key=lambda output: errors[output])
        if errors[worst] > settings.relative_error_max:
            raise UnprovenError(
                self.name,
                f"changed the {worst}: relative error {errors[worst]:.3g} in float64, allowed "
                f"{settings.relative_error_max:g}",
            )
        return errors[worst]

    @final
    def run(
        self, network: MultiTaskNetwork, *, before: Cost | None = None, settings: PassProofSettings | None = None
    ) -> tuple[MultiTaskNetwork, PassReport]:
        """Rewrite a copy of the network and prove it.

        Args:
            network: Network to rewrite; left as it is.
            before: Cost of the network where it is known, which saves counting it again.
            settings: Input and limit of the proof.

        Returns:
            The rewritten copy, in the dtype of `network` and evaluation mode, or `network` itself where the pass has
            nothing to do; and the report.

        Raises:
            UnprovenError: If the pass fails or can't prove itself; names the pass.
        """
        before = before or cost_of_network(network)
        reference = in_float64(network)
        try:
            if not self.requires(reference):
                return network, PassReport(
                    name=self.name, changed=False, before=before, after=before, relative_error=0.0
                )
            # A pass changes what it is given, and the proof needs both.
            rewritten = self.apply(copy.deepcopy(reference)).eval()
            error = self.ensures(reference, rewritten, settings or PassProofSettings())
            result = rewritten.to(dtype_of(network)).requires_grad_(False)
            after = cost_of_network(result)
        except _FAILURES as failure:
            where = f"{network.spec.architecture} with encoder {network.spec.encoder}"
            raise UnprovenError(self.name, f"failed on {where}: {first_line_of(failure)}") from failure
        return result, PassReport(name=self.name, changed=True, before=before, after=after, relative_error=error)


def in_float64(network: MultiTaskNetwork) -> MultiTaskNetwork:
    """A copy of the network in float64 and evaluation mode."""
    return copy.deepcopy(network).double().eval()


def dtype_of(network: MultiTaskNetwork) -> torch.dtype:
    """The floating type of the network's parameters."""
    return next(network.parameters()).dtype


def cost_of_network(network: MultiTaskNetwork) -> Cost:
    """Cost at the input size of the network's own spec; counted in float32, which is quicker and counts the same."""
    return cost_of(copy.deepcopy(network).float(), network.spec.input_size_px)
