"""A frame that was submitted and whose answer is still to come."""

from __future__ import annotations

from collections.abc import Callable

from spacecompile.runtime.answer import Answer
from spacecompile.runtime.backend import RawTicket
from spacecompile.runtime.cuda.answer import DeviceAnswer


class Ticket:
    """One frame that was submitted. Dropping it without asking for its result is harmless."""

    def __init__(
        self, source: RawTicket, take: Callable[[], Answer | DeviceAnswer], answer: Answer | DeviceAnswer | None
    ) -> None:
        """Wrap a backend's ticket; users get one from `Session.submit`.

        Args:
            source: Ticket of the backend that was handed the frame.
            take: The session's way from that ticket to the answer.
            answer: Answer of a backend that gives it at once; None for a frame in flight.
        """
        self._source = source
        self._take = take
        self._answer = answer

    def is_done(self) -> bool:
        """Whether `result` would not wait for the GPU: it returns, has the CPU answer, or raises."""
        return self._answer is not None or self._source.is_done()

    def result(self) -> Answer | DeviceAnswer:
        """Wait for the answer; asking again gives the same one.

        Raises:
            AnswerError: If the graph put out what no sound graph can.
            DeviceError: If the GPU failed, and the policy is to raise or the frame was on the GPU.
            UsageError: If the session is busy in another thread, or was closed before the frame was answered.
        """
        if self._answer is None:
            self._answer = self._take()
        return self._answer
