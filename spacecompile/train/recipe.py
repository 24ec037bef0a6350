"""The training recipe: every number that shapes the weights, in one record that travels in the checkpoint."""

from __future__ import annotations

import math
from typing import Literal

from spacecompile.errors import UsageError
from spacecompile.record import Record

Augmentation = Literal["none", "light", "medium", "heavy"]


class Recipe(Record):
    """How a network is trained. The defaults are those of the benchmark's published third-place network.

    Attributes:
        epochs: Passes over the training frames; an upper bound when `time_limit_min` is given.
        batch_size: Frames per step. An incomplete last batch of an epoch is left out.
        lr: Peak learning rate of decoder and heads.
        encoder_lr_scale: Encoder's share of `lr`: 0.1 protects pretrained features, 1.0 suits training from scratch.
        weight_decay: Weight decay of AdamW, on weights with two or more axes; norms and biases are left alone.
        warmup_epochs: Linear ramp from zero, before the cosine.
        clip_norm: Largest gradient norm.
        augment: `light` is flips, quarter turns and small rotations; `medium` adds scale, shift, exposure and noise;
            `heavy` widens all of these and adds coloured light and blur.
        zoom: Share of the frames that are shown as a view cut around the craft when training starts; it falls linearly.
            From scratch 1.0 teaches shapes and classes several times faster; 0 for none.
        zoom_until: Part of the run after which only whole frames are shown.
        dice_weight, bce_weight, class_weight: Weights of the three losses.
        box_loss_weight: Weight of the loss on the mask's box. Where parts are labelled it helps them and is reached
            after half
            of the run; where they are not, it alone teaches the box, from the start. 0 for none; None is 1 for data
            without masks and 0 for other data.
        lovasz_weight: Weight of the Lovasz hinge on the parts, beside Dice and cross-entropy; 0 for none.
        teacher_weight: Weight of the distance to a teacher's answers, where the run has a teacher.
        label_smoothing: Smoothing of the classifier's targets.
        ema: Decay per step of the averaged weights that are validated and kept; 0 for none.
        freeze_stages: Number of encoder stages, the stem included, that keep the weights they begin with; 0 trains all.
        freeze_norm: Whether batch norms keep the running statistics that they begin with, which small batches need.
        sync_batchnorm: Whether batch norm takes its statistics over all processes; None does on GPUs, where it costs
            little, and leaves each CPU process its own.
        seed: Seed of the weights, the order of the frames and the augmentation.
        amp: Mixed precision where the device has it.
        time_limit_min: Minutes of training; the learning rate then follows the clock. 0 for none.
    """

    epochs: int = 30
    batch_size: int = 16
    lr: float = 5e-3
    encoder_lr_scale: float = 0.1
    weight_decay: float = 1e-4
    warmup_epochs: float = 1.0
    clip_norm: float = 1.0
    augment: Augmentation = "light"
    zoom: float = 0.0
    zoom_until: float = 0.7
    dice_weight: float = 1.0
    bce_weight: float = 1.0
    class_weight: float = 1.0
    box_loss_weight: float | None = None
    lovasz_weight: float = 0.0
    teacher_weight: float = 1.0
    label_smoothing: float = 0.0
    ema: float = 0.0
    freeze_stages: int = 0
    freeze_norm: bool = False
    sync_batchnorm: bool | None = None
    seed: int = 0
    amp: bool = True
    time_limit_min: float = 0.0

    def __post_init__(self) -> None:
        """Check the recipe once.

        Raises:
            UsageError: If a value makes no sense.
        """
        positive = ("epochs", "batch_size", "lr", "clip_norm")
        not_negative = (
            *("encoder_lr_scale", "weight_decay", "warmup_epochs", "time_limit_min", "seed", "freeze_stages"),
            *("dice_weight", "bce_weight", "class_weight", "lovasz_weight", "teacher_weight"),
            *(() if self.box_loss_weight is None else ("box_loss_weight",)),
        )
        fractions = ("label_smoothing", "ema")
        shares = ("zoom", "zoom_until")
        numbers = (*positive, *not_negative)
        rules = (
            *((name, math.isfinite(getattr(self, name)), "a finite number") for name in numbers),
            *((name, getattr(self, name) > 0, "above zero") for name in positive),
            *((name, getattr(self, name) >= 0, "zero or more") for name in not_negative),
            *((name, 0 <= getattr(self, name) < 1, "at least 0 and below 1") for name in fractions),
            *((name, 0 <= getattr(self, name) <= 1, "at least 0 and at most 1") for name in shares),
        )
        for name, holds, rule in rules:
            if not holds:
                flag = name.replace("_", "-")
                raise UsageError(f"{name} is {getattr(self, name)}; it must be {rule}. Check --{flag}.")
