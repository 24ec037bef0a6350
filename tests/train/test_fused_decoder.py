"""The fused decoder is the same function of the same parameters."""

from __future__ import annotations

import pytest
import torch

from spacecompile.contract import ModelSpec
from spacecompile.network.model import MultiTaskNetwork
from spacecompile.train.fused_decoder import TrainingForward


def outputs_and_gradients(forward: torch.nn.Module, network: MultiTaskNetwork) -> list[torch.Tensor]:
    torch.manual_seed(3)
    network.zero_grad()
    input_NCHW = torch.randn(2, 3, 96, 64, dtype=torch.float64)
    class_logits_NL, part_logits_NKhw = forward(input_NCHW)
    (class_logits_NL.square().sum() + part_logits_NKhw.square().sum()).backward()
    gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
    statistics = [buffer.clone() for buffer in network.buffers()]
    return [class_logits_NL.detach(), part_logits_NKhw.detach(), *[grad.clone() for grad in gradients], *statistics]


@pytest.mark.parametrize("is_training", [True, False], ids=["training", "evaluation"])
def test_outputs_gradients_and_statistics_equal_the_networks_in_float64(is_training: bool) -> None:
    torch.manual_seed(0)
    network = MultiTaskNetwork(ModelSpec(input_size_px=(96, 64))).double().train(is_training)
    start = {key: value.clone() for key, value in network.state_dict().items()}
    forward = TrainingForward(network)
    assert forward.is_fused
    expected = outputs_and_gradients(network, network)
    network.load_state_dict(start)
    found = outputs_and_gradients(forward, network)
    assert len(found) == len(expected) > len(list(network.parameters()))
    for value, wanted in zip(found, expected, strict=True):
        assert torch.allclose(value.double(), wanted.double(), rtol=1e-9, atol=1e-9)


def test_gradients_lie_in_memory_as_their_parameters_do() -> None:
    network = MultiTaskNetwork(ModelSpec(input_size_px=(64, 64))).to(memory_format=torch.channels_last)
    _, part_logits_NKhw = TrainingForward(network)(torch.randn(1, 3, 64, 64))
    part_logits_NKhw.sum().backward()
    strides = {
        name: (parameter.grad.stride(), parameter.stride())
        for name, parameter in network.decoder.named_parameters()
        if parameter.grad is not None
    }
    assert "fuse_stage.0.weight" in strides
    assert [name for name, (found, wanted) in strides.items() if found != wanted] == []


def test_another_architecture_takes_its_own_way() -> None:
    spec = ModelSpec(architecture="Linknet", encoder="resnet18", decoder_options={}, input_size_px=(64, 64))
    network = MultiTaskNetwork(spec).eval()
    forward = TrainingForward(network)
    assert not forward.is_fused
    input_NCHW = torch.randn(1, 3, 64, 64)
    assert torch.equal(forward(input_NCHW)[1], network(input_NCHW)[1])


def test_no_parameter_is_added_or_lost() -> None:
    network = MultiTaskNetwork(ModelSpec(input_size_px=(64, 64)))
    assert {id(parameter) for parameter in TrainingForward(network).parameters()} == {
        id(parameter) for parameter in network.parameters()
    }
