"""How good the network is on episodes it never trained on."""

from __future__ import annotations

import torch

from rt1.data.loader import Loader
from rt1.model.rt1 import RT1, action_loss
from rt1.train.config import Precision
from rt1.train.forward import predict
from rt1.train.parts import training_mode


def validate(model: RT1, loader: Loader, *, precision: Precision = "fp32") -> dict[str, float]:
    """Return ``heldout_loss`` (nats per token) and ``heldout_accuracy`` over every window of a loader."""
    was_training = model.training
    model.eval()
    loss = accuracy = steps = 0.0
    with torch.no_grad():
        for batch in loader.in_order():
            predicted = predict(model, batch, precision=precision)
            count = int(predicted.mask_BT.sum())
            mean = action_loss(predicted.logits_BTAV, predicted.token_BTA, mask_BT=predicted.mask_BT)
            loss += count * float(mean)
            accuracy += count * predicted.accuracy()
            steps += count
    if was_training:
        training_mode(model)
    return {"heldout_loss": loss / steps, "heldout_accuracy": accuracy / steps}
