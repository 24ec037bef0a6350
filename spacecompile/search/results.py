"""What a search finds, as records that become its JSON."""

from __future__ import annotations

from typing import Literal

import msgspec

from spacecompile.contract import Cost
from spacecompile.machine.records import Environment
from spacecompile.metrics import Scores, with_cost
from spacecompile.record import Record
from spacecompile.train.named_recipes import NamedRecipe

Status = Literal["done", "stopped", "diverged", "failed", "refused"]
"""done: all epochs. stopped: early, by ASHA. diverged: no longer finite. failed: an error, or a lost machine that was
tried again in vain. refused: smp can't build it or it does not run at the input's size."""


class Costs(Record):
    """Of a candidate's network at the size that is charged.

    Attributes:
        source: As trained.
        rewritten: After the exact rewrites: what ships.
        size_px: (height, width) of the input that multiply-adds were counted at.
        skipped: Names of rewrites that could not prove themselves on this network.
    """

    source: Cost
    rewritten: Cost
    size_px: tuple[int, int]
    skipped: tuple[str, ...] = ()


class Outcome(Record):
    """One candidate's result.

    Attributes:
        candidate: What was trained.
        status: How it ended.
        reason: In words, where it did not end by itself.
        epochs: Number of epochs that were trained.
        scores: At the cost of the rewritten network; of the last epoch where it was stopped. None without an epoch.
        costs: None where smp refused the network.
        elapsed_s: Seconds of training, over all attempts that count.
        frames_per_s: Frames per second in the last epoch's training.
        history: `s_acc` after each epoch.
        restarts: Times that its process or machine was lost and another went on.
    """

    candidate: NamedRecipe
    status: Status
    reason: str = ""
    epochs: int = 0
    scores: Scores | None = None
    costs: Costs | None = None
    elapsed_s: float = 0.0
    frames_per_s: float = 0.0
    history: tuple[float, ...] = ()
    restarts: int = 0

    @property
    def s_efficiency(self) -> float:
        """Mean of `s_flops` and `s_params`, which weigh the same; 0 without scores."""
        return (self.scores.s_flops + self.scores.s_params) / 2 if self.scores else 0.0

    @property
    def s_final(self) -> float:
        """For ranking: -1 for a candidate that gave no usable network."""
        return self.scores.s_final if self.scores and self.status in ("done", "stopped") else -1.0

    @property
    def s_final_source(self) -> float | None:
        """The score without the rewrites."""
        return with_cost(self.scores, self.costs.source).s_final if self.scores and self.costs else None


class Circumstances(Record):
    """What a reader needs to judge a search's numbers.

    Attributes:
        command: Command that started the search.
        frames: Training and validation frames per network.
        input_size_px: Input size that networks were trained at, unless their own specs say another.
        charged_size_px: Input size that multiply-adds of such an input were counted at; `Costs` says it of each
            network.
        early_stopping: Whether ASHA stopped weak ones.
        elapsed_s: Seconds of the whole search, this call only.
        environment: Machine and versions.
    """

    command: str
    frames: dict[str, int]
    input_size_px: tuple[int, int]
    charged_size_px: tuple[int, int]
    early_stopping: bool
    elapsed_s: float
    environment: Environment


class Phase(Record):
    """One phase of a search of hyperparameters.

    Attributes:
        name: What it varies.
        outcomes: Best first.
        best: Name of the candidate that goes on.
    """

    name: str
    outcomes: tuple[Outcome, ...]
    best: str


class SearchResult(Record):
    """`search.json`.

    Attributes:
        kind: Kind of the search.
        outcomes: All networks of a search of architectures, best first; empty for hyperparameters.
        frontier: Names on the Pareto frontier of `s_acc` against efficiency, from efficient to accurate.
        knee: Name at its knee; empty without a frontier.
        phases: Phases of a search of hyperparameters, in order.
        best: The recipe to go on with.
        circumstances: Where and how.
    """

    kind: Literal["architectures", "hyperparameters"]
    best: NamedRecipe
    circumstances: Circumstances
    outcomes: tuple[Outcome, ...] = ()
    frontier: tuple[str, ...] = ()
    knee: str = ""
    phases: tuple[Phase, ...] = ()


def ranked(outcomes: tuple[Outcome, ...]) -> tuple[Outcome, ...]:
    """Best `s_final` first; candidates without a network last, in the order given."""
    return tuple(sorted(outcomes, key=lambda outcome: -outcome.s_final))


def result_bytes(result: SearchResult) -> bytes:
    """The record as indented JSON."""
    return msgspec.json.format(msgspec.json.encode(result), indent=2) + b"\n"
