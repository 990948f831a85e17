"""Decoder, then projection, is the model's own logits."""

import pytest
import torch

from redpencil.models.head import backbone, output_head
from redpencil.models.lora import add_lora
from zoo import ARCHITECTURES, tiny_model


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("lora", [False, True])
def test_head_of_backbone_is_the_models_logits(name, lora):
    model = tiny_model(name)
    if name == "gemma2":
        model.config.final_logit_softcapping = 2.0
    if lora:
        model = add_lora(model, rank=2)
    ids = torch.tensor([[3, 9, 4, 30, 5]])
    with torch.no_grad():
        expected = model(input_ids=ids).logits
        hidden = backbone(model)(input_ids=ids).last_hidden_state
        head = output_head(model)
        logits = head.scale * torch.nn.functional.linear(hidden, head.weight, head.bias)
        if head.softcap is not None:
            logits = head.softcap * torch.tanh(logits / head.softcap)
    torch.testing.assert_close(logits, expected)
    expected_softcap = {"gemma2": 2.0}
    assert head.softcap == expected_softcap.get(name)
