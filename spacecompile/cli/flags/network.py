"""Flags that say what a checkpoint does not: facts about its training, and which foreign network it is."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from spacecompile.cli.flags.parse import channels_from_text, names_from_text, size_px_from_text
from spacecompile.contract import ModelSpec
from spacecompile.errors import UsageError

_INSTEAD = partial(typer.Option, rich_help_panel="Instead of what the checkpoint says")
_FOREIGN = partial(typer.Option, rich_help_panel="What the weights of a foreign checkpoint don't say")

ImgszFlag = Annotated[str | None, _INSTEAD(help="Input size in pixels, SIDE or HEIGHTxWIDTH.")]
FrameFlag = Annotated[str | None, _INSTEAD(help="Camera frame size in pixels, HEIGHTxWIDTH.")]
MeanFlag = Annotated[str | None, _INSTEAD(help="Mean r,g,b of frames scaled to 0..1.")]
StdFlag = Annotated[str | None, _INSTEAD(help="Standard deviation r,g,b of frames scaled to 0..1.")]
ClassesFlag = Annotated[str | None, _INSTEAD(help="Class names a,b,... in the classifier's order.")]
SpecFlag = Annotated[Path | None, _INSTEAD(help="JSON file with fields of the model spec; flags win over it.")]
ArchitectureFlag = Annotated[str | None, _FOREIGN(help="smp class, such as Unet.")]
EncoderFlag = Annotated[str | None, _FOREIGN(help="smp encoder, timm's as tu-NAME.")]
EncoderDepthFlag = Annotated[int | None, _FOREIGN(min=3, max=5, help="Stages of the encoder.")]
DecoderOptionsFlag = Annotated[str | None, _FOREIGN(metavar="JSON", help="Keyword arguments of the smp class.")]


def spec_changes(
    *,
    spec: Path | None,
    imgsz: str | None,
    frame: str | None,
    mean: str | None,
    std: str | None,
    classes: str | None,
    architecture: str | None,
    encoder: str | None,
    encoder_depth: int | None,
    decoder_options: str | None,
) -> dict[str, Any]:
    """Fields of the spec that flags and the spec file give.

    Raises:
        UsageError: If a flag or the file can't be read.
    """
    changes = {} if spec is None else _spec_from_file(spec)
    if imgsz is not None:
        changes["input_size_px"] = size_px_from_text(imgsz, "--imgsz")
    if frame is not None:
        changes["frame_size_px"] = size_px_from_text(frame, "--frame")
    if mean is not None:
        changes["mean"] = channels_from_text(mean, "--mean")
    if std is not None:
        changes["std"] = channels_from_text(std, "--std")
    if classes is not None:
        changes["classes"] = names_from_text(classes)
    if decoder_options is not None:
        changes["decoder_options"] = _object_from_json(decoder_options.encode(), "--decoder-options")
    named = {"architecture": architecture, "encoder": encoder, "encoder_depth": encoder_depth}
    return {**changes, **{name: value for name, value in named.items() if value is not None}}


def _spec_from_file(path: Path) -> dict[str, Any]:
    """The fields that a file gives, as the spec holds them."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(f"can't read --spec {path}: {error.strerror}. Name a JSON file.") from error
    given = _object_from_json(content, f"--spec {path}")
    if unknown := sorted(given.keys() - set(ModelSpec.__struct_fields__)):
        raise UsageError(
            f"--spec {path} has the field {unknown[0]!r}, which no model spec has. Known are "
            f"{', '.join(ModelSpec.__struct_fields__)}."
        )
    if "part_logit_offset" in given:
        raise UsageError(f"--spec {path} has part_logit_offset, which only a rewritten network has. Leave it out.")
    try:
        spec = msgspec.convert(given, ModelSpec)
    except msgspec.ValidationError as error:
        raise UsageError(f"--spec {path} can't be used: {error}. See the spec in a bundle's manifest.json.") from error
    return {name: getattr(spec, name) for name in given}


def _object_from_json(content: bytes, flag: str) -> dict[str, Any]:
    try:
        return msgspec.json.decode(content, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UsageError(f'{flag} is no JSON object: {error}. Write it like {{"mean": [0.5, 0.5, 0.5]}}.') from error
