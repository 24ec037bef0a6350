"""The processes that train one network together: one alone, or several through Lightning Fabric under torchrun.

Every process sees its share of each batch, and gradients are averaged. With shared batch-norm statistics, which are the
default on GPUs, several processes compute what one would. Files are written by the first one only.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar, final

import torch
from torch import Tensor, nn

from spacecompile.errors import UsageError
from spacecompile.extras import require_extra
from spacecompile.train.sync_norm import SharedBatchNorm

if TYPE_CHECKING:
    from lightning_fabric import Fabric

WAIT_LIMIT = timedelta(hours=12)
"""How long the others wait while the first process validates and finishes."""

_Value = TypeVar("_Value")


@dataclass(frozen=True, kw_only=True)
class Launch:
    """How torchrun started the processes.

    Attributes:
        processes: On each node.
        nodes: Machines.
    """

    processes: int
    nodes: int


class World(ABC):
    """All processes of a run, seen from one of them.

    Attributes:
        rank: Number of this process, from 0.
        size: Number of processes.
        local_rank: Number of this process on its node: the GPU that it uses.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def is_first(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    def share_of(self, batch_size: int) -> int:
        """Frames of a batch that each process takes.

        Raises:
            UsageError: If they can't be shared out evenly.
        """
        if batch_size % self.size:
            raise UsageError(
                f"a batch of {batch_size} frames can't be shared out evenly among {self.size} processes. Choose a "
                "--batch-size that is a multiple of their number."
            )
        return batch_size // self.size

    def order_of(self, order_N: Tensor, batch_size: int) -> Tensor:
        """This process's frames of every whole batch, in order: together the processes see the very same batches."""
        steps = len(order_N) // batch_size
        shares = order_N[: steps * batch_size].reshape(steps, self.size, self.share_of(batch_size))
        return shares[:, self.rank].flatten()

    @abstractmethod
    def device_of(self, device: str) -> str:
        """The device that this process uses, when the user named `device`."""

    @abstractmethod
    def wrapped(self, module: nn.Module) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
        """The module, with gradients that will be averaged over the processes."""

    @abstractmethod
    def shares_statistics(self, wanted: bool | None) -> bool:
        """Whether batch norms see the batches of all processes.

        Args:
            wanted: Whether they should; None for the default, which is on GPUs only: on CPUs they would wait for each
                other at every layer.
        """

    @final
    def shared_statistics(self, wanted: bool | None) -> AbstractContextManager[Any]:
        """Within it, batch norms see the batches of all processes, if `shares_statistics` says so."""
        return SharedBatchNorm() if self.shares_statistics(wanted) else nullcontext()

    @abstractmethod
    def backward(self, loss: Tensor) -> None:
        """Differentiate."""

    @abstractmethod
    def mean(self, values: Tensor) -> Tensor:
        """Mean over the processes."""

    @abstractmethod
    def from_first(self, make: Callable[[], _Value]) -> _Value:
        """What the first process makes, in all of them; the others wait for it."""

    @abstractmethod
    def from_all(self, value: _Value) -> list[_Value]:
        """What each process has, in the order of their ranks, in all of them."""


class Alone(World):
    """One process."""

    def device_of(self, device: str) -> str:
        """What the user named."""
        return device

    def wrapped(self, module: nn.Module) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
        """The module itself."""
        return module

    def shares_statistics(self, wanted: bool | None) -> bool:
        """There is nothing to share."""
        del wanted
        return False

    def backward(self, loss: Tensor) -> None:
        """Differentiate."""
        loss.backward()  # type: ignore[no-untyped-call]

    def mean(self, values: Tensor) -> Tensor:
        """The values themselves."""
        return values

    def from_first(self, make: Callable[[], _Value]) -> _Value:
        """What this process makes."""
        return make()

    def from_all(self, value: _Value) -> list[_Value]:
        """The value alone."""
        return [value]


class Together(World):
    """Several processes, through Fabric."""

    def __init__(self, fabric: Fabric) -> None:
        """Take over a launched Fabric."""
        self._fabric = fabric
        self.rank, self.size, self.local_rank = fabric.global_rank, fabric.world_size, fabric.local_rank

    def device_of(self, device: str) -> str:
        """The GPU of this process's number on its node, or the CPU."""
        del device
        return f"cuda:{self.local_rank}" if self._fabric.device.type == "cuda" else "cpu"

    def wrapped(self, module: nn.Module) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
        """The module under distributed data parallelism."""
        return self._fabric.setup_module(module)

    def shares_statistics(self, wanted: bool | None) -> bool:
        """As wanted, or by the device."""
        return self._fabric.device.type == "cuda" if wanted is None else wanted

    def backward(self, loss: Tensor) -> None:
        """Differentiate, and average the gradients."""
        self._fabric.backward(loss)

    def mean(self, values: Tensor) -> Tensor:
        """Mean over the processes."""
        reduced = self._fabric.all_reduce(values, reduce_op="mean")
        assert isinstance(reduced, Tensor)
        return reduced

    def from_first(self, make: Callable[[], _Value]) -> _Value:
        """What the first process makes, in all of them; the others wait for it."""
        made: Any = self._fabric.broadcast(make() if self.is_first else None, src=0)
        return made  # type: ignore[no-any-return]

    def from_all(self, value: _Value) -> list[_Value]:
        """What each process has, in the order of their ranks, in all of them."""
        values: list[Any] = [None] * self.size
        torch.distributed.all_gather_object(values, value)
        return values


def join(launch: Launch | None, device: str) -> World:
    """Meet the other processes.

    Args:
        launch: How torchrun started this process; None when it is alone.
        device: `auto`, `cpu` or `cuda`; several processes take one GPU each.

    Raises:
        MissingPartError: If the `distributed` extra is not installed.
        UsageError: If one GPU is named for several processes.
    """
    if launch is None:
        return Alone()
    require_extra("distributed", "training in several processes")
    if ":" in device:
        raise UsageError(f"device is {device!r}, and several processes take one GPU each. Give --device cuda or cpu.")
    from lightning_fabric import Fabric  # noqa: PLC0415 - only several processes need it
    from lightning_fabric.strategies.ddp import DDPStrategy  # noqa: PLC0415

    on_gpu = device == "cuda" or (device == "auto" and torch.cuda.is_available())
    # The graph is the same in every step; told so, parameters that no output reaches are no error.
    strategy = DDPStrategy(timeout=WAIT_LIMIT, static_graph=True)
    fabric = Fabric(
        accelerator="cuda" if on_gpu else "cpu", devices=launch.processes, num_nodes=launch.nodes, strategy=strategy
    )
    fabric.launch()
    return Together(fabric)
