"""A frame that was submitted and whose answer is still to come."""

from __future__ import annotations

from collections.abc import Callable

from spacecompile.runtime.answer import Answer
from spacecompile.runtime.cuda.answer import DeviceAnswer
from spacecompile.runtime.cuda.backend import CudaTicket


class Ticket:
    """One frame that was submitted. Dropping it without asking for its result is harmless."""

    def __init__(self, source: CudaTicket | Answer, take: Callable[[CudaTicket], Answer | DeviceAnswer]) -> None:
        """Of a frame in flight, or of one that is answered; users get one from `Session.submit`.

        Args:
            source: What there is.
            take: The session's way from a frame in flight to its answer.
        """
        self._take = take
        self._ticket = source if isinstance(source, CudaTicket) else None
        self._answer: Answer | DeviceAnswer | None = source if isinstance(source, Answer) else None

    def is_done(self) -> bool:
        """Whether `result` would not wait for the GPU: it returns, has the CPU answer, or raises."""
        return self._ticket is None or self._answer is not None or self._ticket.is_done()

    def result(self) -> Answer | DeviceAnswer:
        """Wait for the answer; asking again gives the same one.

        Raises:
            AnswerError: If the graph put out what no sound graph can.
            DeviceError: If the GPU failed, and the policy is to raise or the frame was on the GPU.
            UsageError: As `Session.__call__`, and if the session was closed before.
        """
        if self._answer is None:
            assert self._ticket is not None
            self._answer = self._take(self._ticket)
        return self._answer
