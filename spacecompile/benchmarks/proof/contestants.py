"""A session of the proof, as contestants: from the host, and from the GPU to the GPU.

Layout legend: H, W frame rows and columns; C channels (RGB).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

from spacecompile.benchmarks.latency.interleaved import Scope
from spacecompile.benchmarks.latency.variants import SLOW_EVERY
from spacecompile.contract import HEALTH_SIGNALS, Variant
from spacecompile.errors import DeviceError
from spacecompile.runtime.answer import Answer
from spacecompile.runtime.backend import RawAnswer
from spacecompile.runtime.backends.registry import BackendEntry
from spacecompile.runtime.bundle import Bundle
from spacecompile.runtime.cuda.answer import DeviceAnswer
from spacecompile.runtime.cuda.device import CudaDevice
from spacecompile.runtime.cuda.source import DeviceFrame
from spacecompile.runtime.session import Session, load


class Proven:
    """One variant on one backend of the GPU; an error of the GPU is raised, nothing takes over."""

    def __init__(self, variant: Variant, session: Session) -> None:
        """Take over a session; see `opened`."""
        self.variant = variant
        self.session = session
        self.name = f"{variant.name}@{session.choice.backend}"

    @classmethod
    def opened(cls, bundle: Bundle, variant: Variant, entry: BackendEntry) -> Proven:
        """Load the variant on the backend.

        Raises:
            SpacecompileError: As `load`.
        """
        return cls(variant, load(bundle, backend=entry.name, variant=variant.name))

    @property
    def every(self) -> int:
        """It takes part in every n-th round of a race."""
        return 1 if self.variant.tta == "none" else SLOW_EVERY

    def run(self, frame_HWC: NDArray[np.uint8]) -> Answer:
        """Answer one frame; as a contestant this is scope `app`, host memory to host memory."""
        return self.session(frame_HWC)

    def scopes_ms(self) -> Mapping[Scope, float]:
        """Nothing is told apart: the engine runs beside the host, and the device is `DeviceContestant`'s."""
        return {}

    def raw(self, frame_HWC: NDArray[np.uint8]) -> RawAnswer:
        """Answer one frame, in the form that parity is judged in."""
        answer = self.session(frame_HWC)
        return RawAnswer(
            class_probs_L=answer.class_probs,
            parts_HW=answer.parts_HW,
            box_xyxy=answer.box_xyxy,
            health=np.asarray([answer.health[name] for name in HEALTH_SIGNALS], np.float32),
        )

    def close(self) -> None:
        """Free the engine."""
        self.session.close()


class DeviceContestant:
    """Scope `device`: a frame on the GPU to an answer whose parts mask stays there."""

    def __init__(self, proven: Proven, device: CudaDevice, frames_HWC: Sequence[NDArray[np.uint8]]) -> None:
        """Copy the frames to the GPU, once.

        Args:
            proven: Session, which stays its owner's.
            device: GPU that the session runs on.
            frames_HWC: Exactly the arrays that `run` is called with.

        Raises:
            DeviceError: If the GPU has no room for them.
        """
        self._proven = proven
        self._device = device
        self.name = self.key(proven.name)
        self.every = proven.every
        self._frames: dict[int, DeviceFrame] = {}
        stream, event = device.create_stream(), device.create_event()
        pinned = device.allocate_pinned(frames_HWC[0].nbytes)
        try:
            for frame_HWC in frames_HWC:
                pointer = device.allocate(frame_HWC.nbytes)
                self._frames[id(frame_HWC)] = DeviceFrame(pointer=pointer, shape=frame_HWC.shape, owner=frame_HWC)
                np.copyto(pinned, frame_HWC.reshape(-1))
                device.copy_in(pointer, pinned, stream)
                device.record(event, stream)
                device.synchronize(event)
        except BaseException:
            self.close()
            raise
        finally:
            device.free_pinned(pinned)
            device.destroy_event(event)
            device.destroy_stream(stream)

    @staticmethod
    def key(name: str) -> str:
        """Name of the contestant of a session."""
        return f"{name}, on the device"

    def run(self, frame_HWC: NDArray[np.uint8]) -> DeviceAnswer:
        """Answer the frame's copy on the GPU."""
        answer = self._proven.session.submit(self._frames[id(frame_HWC)], parts_on_device=True).result()
        assert isinstance(answer, DeviceAnswer)
        answer.parts.release()
        return answer

    def scopes_ms(self) -> Mapping[Scope, float]:
        """Nothing is told apart: the whole call is the scope."""
        return {}

    def close(self) -> None:
        """Free the frames on the GPU."""
        for frame in self._frames.values():
            # On a lost GPU nothing can be freed, and the error that says so is known.
            with suppress(DeviceError):
                self._device.free(frame.pointer)
        self._frames.clear()
