"""Removal of layers that no output depends on."""

from __future__ import annotations

from spacecompile.export.rewrite.base import Pass
from spacecompile.export.rewrite.proof import PassProofSettings, proof_input
from spacecompile.network.model import MultiTaskNetwork
from spacecompile.network.unused import unused_layers, without_unused_layers


class RemoveUnused(Pass):
    """Put an identity in the place of every layer whose parameters reach no output.

    A network of ours has lost those of its encoder already; one that smp wrote still carries them: PSPNet on MiT-B0 has
    2.900 M parameters of 3.400 M that are never used, and EfficientNet-B0 its classifier's last convolution, 0.412 M.
    """

    name = "remove_unused"

    def requires(self, network: MultiTaskNetwork) -> bool:
        """Whether any layer is unused."""
        return bool(unused_layers(network, proof_input(network, PassProofSettings(batch=1))))

    def apply(self, network: MultiTaskNetwork) -> MultiTaskNetwork:
        """Replace each of them."""
        without_unused_layers(network, proof_input(network, PassProofSettings(batch=1)))
        return network
