"""The network as it acts: weights folded, the text's part computed once an episode, only the rows that are read.

Shape letters: S robots, C channels, H height, W width, T images, K tokens per image, P positions, E text or token
width, F entries of a condition, L sequence, D width of a sequence, A action dimensions, V bins.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from rt1.model.conditioning import FiLM
from rt1.model.rt1 import RT1


class ActingNetwork(nn.Module):
    """A copy of a network for one step of any number of robots: what every engine runs."""

    mean_C11: Tensor
    std_C11: Tensor

    def __init__(self, model: RT1, dtype: torch.dtype = torch.float32) -> None:
        """Copy and fold. The network may change afterwards.

        Args:
            model: the network.
            dtype: of all but the text's part and the output layer. Logits of bfloat16 would often be equal.
        """
        super().__init__()
        self.network = copy.deepcopy(model).eval().requires_grad_(requires_grad=False)
        _fold_batch_norms(self.network)
        self.films = _prepare_films(self.network)
        self.network.to(dtype)
        self.network.text.float()
        self.network.transformer.output.float().register_forward_pre_hook(lambda _, inputs: (inputs[0].float(),))
        self.dtype = dtype
        self.register_buffer("mean_C11", model.pixel_mean[:, None, None].clone())
        self.register_buffer("std_C11", model.pixel_std[:, None, None].clone())

    def condition(self, text_SE: Tensor, dropped_S: Tensor | None = None) -> Tensor:
        """Return what the text embeddings become once an episode: (S, F), or tokens (S, tokens, F).

        ``dropped_S``, bool (S,), is True where the learned null takes the text's place.
        """
        condition = self.network.text(text_SE, dropped_S)
        return condition if self.films is None else self.films(condition)

    def encode(self, image_SCHW: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        """Turn prepared images (S, 3, H, W) in [0, 1] into image tokens (S, K, E) and TokenLearner's maps (S, K, P)."""
        normal_SCHW = ((image_SCHW - self.mean_C11) / self.std_C11).to(self.dtype)
        position_SPE = self.network.backbone(normal_SCHW, self._condition(condition))
        return self.network.token_learner.pool(position_SPE)

    def decode(self, token_STKE: Tensor, step_S: Tensor, condition: Tensor) -> Tensor:
        """Return float32 logits (S, A, V) of each robot's step, int64 (S,). Image tokens after it are ignored."""
        return self.network.decode(token_STKE.to(self.dtype), self._condition(condition), step_B=step_S)

    def _condition(self, condition: Tensor) -> Tensor:
        return condition if self.films is not None else condition.to(self.dtype)


class PreparedFiLM(nn.Module):
    """A FiLM layer whose scale and shift are computed already, at a place in the condition."""

    def __init__(self, first: int, channels: int) -> None:
        super().__init__()
        self.scale, self.shift = slice(first, first + channels), slice(first + channels, first + 2 * channels)

    def forward(self, x_SCHW: Tensor, condition_SF: Tensor) -> Tensor:
        """Condition (S, C, H, W)."""
        condition_SF11 = condition_SF.to(x_SCHW.dtype)[..., None, None]
        return torch.addcmul(condition_SF11[:, self.shift], condition_SF11[:, self.scale], x_SCHW)

    def sequence(self, x_SLD: Tensor, condition_SF: Tensor) -> Tensor:
        """Condition (S, L, D)."""
        condition_S1F = condition_SF.to(x_SLD.dtype)[:, None]
        return torch.addcmul(condition_S1F[..., self.shift], condition_S1F[..., self.scale], x_SLD)


def _prepare_films(model: RT1) -> nn.Linear | None:
    """Put prepared layers in place of all FiLM layers, and return the map from the text to their condition."""
    names = [name for name, module in model.named_modules() if isinstance(module, FiLM)]
    if not names:
        return None
    weights, biases, first = [], [], 0
    for name in names:
        film = model.get_submodule(name)
        assert isinstance(film, FiLM)
        weights += [film.multiply.weight, film.add.weight]
        biases += [film.multiply.bias + 1.0, film.add.bias]  # FiLM multiplies by 1 + scale
        model.set_submodule(name, PreparedFiLM(first, film.add.out_features))
        first += 2 * film.add.out_features
    return _linear(torch.cat(weights), torch.cat(biases))


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    layer = nn.utils.skip_init(nn.Linear, weight.shape[1], len(weight), device=weight.device)
    layer.weight, layer.bias = (nn.Parameter(value, requires_grad=False) for value in (weight, bias))
    return layer


def _fold_batch_norms(model: nn.Module) -> None:
    """Fold each normalization named ``x_norm`` into the convolution ``x`` before it."""
    for module in model.modules():
        for name, conv in list(module.named_children()):
            norm = getattr(module, f"{name}_norm", None)
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                assert norm.running_mean is not None
                assert norm.running_var is not None
                conv.weight, conv.bias = fuse_conv_bn_weights(
                    conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
                )
                setattr(module, f"{name}_norm", nn.Identity())
