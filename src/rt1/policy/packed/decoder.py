"""The transformer for acting: the logits of one step per robot.

The sequence holds all image tokens, then all action tokens. Action tokens are zeros, so their first projection is
precomputed. No action token attends to an action token, so their rows need only the image keys. The last layer computes
only the rows that are read out.

Shape letters: S robots, T images, K tokens per image, E token width, A action dimensions, V bins, L = T*(K+A)
sequence, D width, N heads, H head width, R rows.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rt1.model.rt1 import RT1
from rt1.model.transformer import Layer, SwiGLU, at_least_float32
from rt1.policy.packed.layers import LinearMap, Target, linear, sparing_threads


class PlainDecoder:
    """The network's own transformer: for variants that :class:`StepDecoder` does not know."""

    def __init__(self, model: RT1) -> None:
        self._model = model

    def __call__(self, token_STKE: Tensor, step_S: Tensor, condition_S: Tensor) -> Tensor:
        """Return float32 logits (S, A, V) of each robot's step ``step_S``; later image tokens mean nothing."""
        logits_STAV = self._model.decode(token_STKE, condition_S)
        return logits_STAV[torch.arange(len(step_S), device=step_S.device), step_S]


@dataclass(frozen=True, kw_only=True)
class _Rows:
    """Rows of the sequence, the keys they attend to, and the attention bias (1, R, keys): 0 or minus infinity."""

    rows: slice
    keys: slice
    bias: Tensor


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """The layout for a number of images: image and action rows, and the rows where each step's action is read."""

    groups: tuple[_Rows, ...]
    read_TA: Tensor
    read_bias_TAL: Tensor


class StepDecoder:
    """Transformer layers with packed weights."""

    @staticmethod
    def fits(model: RT1) -> bool:
        """Say whether it knows this network's transformer."""
        config = model.config
        return config.readout == "action_tokens" and config.transformer.condition is None and config.mask != "step"

    def __init__(self, model: RT1, target: Target) -> None:
        """Pack; the network may change afterwards."""
        config, transformer = model.config, model.transformer
        self._config = config
        self._mask_LL = model.mask_LL.detach().to(target.device, copy=True)
        # int8 errs most in the other layers: in sums of many rows' values, and in outputs added to the residual stream.
        rest = dataclasses.replace(target, numbers="bf16") if target.numbers == "int8" else target
        self._dtype = torch.bfloat16 if target.numbers == "bf16" else torch.float32
        position_LD = (transformer.position_LD + transformer.position_bias_D + transformer.embed.bias).detach()
        position_WSD = position_LD.to(target.device).unflatten(0, (config.window, config.step_tokens))
        self._image_WKD = position_WSD[:, : config.image_tokens].contiguous()
        self._action_WAD = position_WSD[:, config.image_tokens :].contiguous()
        self._embed = linear(transformer.embed.weight, None, rest)
        layers: Sequence[Layer] = list(transformer.layers)  # type: ignore[arg-type]
        self._layers = [_WholeLayer(layer, target, rest) for layer in layers[:-1]]
        self._last = _LastLayer(layers[-1], target, rest)
        # Always float32: bfloat16 logits of 8 and more are 1/16 apart, and close ones would be equal.
        logits = dataclasses.replace(target, numbers="fp32")
        self._output = linear(transformer.output.weight, transformer.output.bias, logits)
        self._known_WAF = self._layers[0].project(self._action_WAD) if self._layers else None
        self._plans: dict[int, _Plan] = {}

    def __call__(self, token_STKE: Tensor, step_S: Tensor, _condition_S: Tensor) -> Tensor:
        """Return float32 logits (S, A, V) of each robot's step ``step_S``; later image tokens mean nothing."""
        with sparing_threads(len(token_STKE)):
            return self._decode(token_STKE, step_S)

    def _decode(self, token_STKE: Tensor, step_S: Tensor) -> Tensor:
        batch, steps = token_STKE.shape[:2]
        if steps not in self._plans:
            self._plans[steps] = self._make_plan(steps)
        plan = self._plans[steps]
        image_STKD = self._embed(token_STKE) + self._image_WKD[:steps]
        action_STAD = self._action_WAD[:steps].expand(batch, -1, -1, -1)
        x_SLD = torch.cat([image_STKD.flatten(1, 2), action_STAD.flatten(1, 2)], dim=1)
        for number, layer in enumerate(self._layers):
            known = self._known_WAF[:steps].flatten(0, 1) if number == 0 and self._known_WAF is not None else None
            x_SLD = layer(x_SLD, plan, known)
        return at_least_float32(self._output(self._last(x_SLD, plan, step_S)))

    def _make_plan(self, steps: int) -> _Plan:
        tokens, actions = self._config.image_tokens, self._config.action_tokens
        index_TS = torch.arange(steps * self._config.step_tokens).unflatten(0, (steps, -1))
        order_L = torch.cat([index_TS[:, :tokens].flatten(), index_TS[:, tokens:].flatten()]).to(self._mask_LL.device)
        sees_LL = self._mask_LL[order_L][:, order_L]
        bias_LL = torch.zeros(sees_LL.shape, dtype=self._dtype, device=sees_LL.device)
        bias_LL = bias_LL.masked_fill(~sees_LL, -math.inf)
        images, length = steps * tokens, len(order_L)
        groups = []
        for rows in (slice(0, images), slice(images, length)):
            keys = slice(0, length if bool(sees_LL[rows, images:].any()) else images)
            groups.append(_Rows(rows=rows, keys=keys, bias=bias_LL[None, rows, keys].contiguous()))
        # One position early: the last image token predicts dimension 0, action token k predicts k + 1.
        step_T1 = torch.arange(steps)[:, None]
        read_TA = torch.cat(
            [step_T1 * tokens + tokens - 1, images + step_T1 * actions + torch.arange(actions - 1)], dim=1
        ).to(order_L.device)
        return _Plan(groups=tuple(groups), read_TA=read_TA, read_bias_TAL=bias_LL[read_TA])


class _Layer:
    """The common part of both kinds of layers: all but the projection to query, key and value."""

    def __init__(self, layer: Layer, rest: Target) -> None:
        self.attention_norm = copy.deepcopy(layer.attention_norm).to(rest.device)
        self.feed_forward_norm = copy.deepcopy(layer.feed_forward_norm).to(rest.device)
        self.heads = layer.attention.heads
        self._output = linear(layer.attention.output.weight, layer.attention.output.bias, rest)
        self._feed_forward = _feed_forward(layer.feed_forward, rest)

    def finish(self, x_SRD: Tensor, seen_XRH: Tensor) -> Tensor:
        """Return the residual stream (S, R, D) after the layer, given the heads' outputs (S*N, R, H)."""
        seen_SRF = seen_XRH.unflatten(0, (len(x_SRD), self.heads)).transpose(1, 2).flatten(2)
        x_SRD = x_SRD + self._output(seen_SRF)
        return x_SRD + self._feed_forward(self.feed_forward_norm(x_SRD))


class _WholeLayer(_Layer):
    """A layer that computes all rows."""

    def __init__(self, layer: Layer, target: Target, rest: Target) -> None:
        super().__init__(layer, rest)
        self._query_key_value = linear(*_scaled_projection(layer), target)

    def project(self, x: Tensor) -> Tensor:
        """Return query, key and value of (..., D), laid end to end."""
        return self._query_key_value(self.attention_norm(x))

    def __call__(self, x_SLD: Tensor, plan: _Plan, known_RF: Tensor | None) -> Tensor:
        """Map (S, L, D) to (S, L, D); ``known_RF``: what :meth:`project` gives for the action rows."""
        if known_RF is None:
            qkv_SLF = self.project(x_SLD)
        else:
            qkv_SRF = self.project(x_SLD[:, plan.groups[0].rows])
            qkv_SLF = torch.cat([qkv_SRF, known_RF.expand(len(x_SLD), -1, -1)], dim=1)
        query, key, value = _heads(qkv_SLF, 3, self.heads)
        seen = [
            _attend(query[:, group.rows], key[:, group.keys], value[:, group.keys], group.bias) for group in plan.groups
        ]
        return self.finish(x_SLD, torch.cat(seen, dim=1))


class _LastLayer(_Layer):
    """The last layer, which computes only the rows that are read."""

    def __init__(self, layer: Layer, target: Target, rest: Target) -> None:
        super().__init__(layer, rest)
        weight, bias = _scaled_projection(layer)
        inner = len(weight) // 3
        self._query = linear(weight[:inner], bias[:inner], target)
        self._key_value = linear(weight[inner:], bias[inner:], target)

    def __call__(self, x_SLD: Tensor, plan: _Plan, step_S: Tensor) -> Tensor:
        """Map (S, L, D) to (S, A, D), the rows at which the action of each robot's step is read."""
        rows_S1 = torch.arange(len(x_SLD), device=x_SLD.device)[:, None]
        x_SAD = x_SLD[rows_S1, plan.read_TA[step_S]]
        key, value = _heads(self._key_value(self.attention_norm(x_SLD)), 2, self.heads)
        (query,) = _heads(self._query(self.attention_norm(x_SAD)), 1, self.heads)
        bias = plan.read_bias_TAL[step_S].repeat_interleave(self.heads, dim=0)
        return self.finish(x_SAD, _attend(query, key, value, bias))


def _attend(query_XRH: Tensor, key_XLH: Tensor, value_XLH: Tensor, bias_XRL: Tensor) -> Tensor:
    """Return the attention output (X, R, H), where X is S*N. The bias' X may be 1."""
    if query_XRH.dtype == torch.bfloat16 and query_XRH.device.type == "cpu":  # in float32 it is slower than its parts
        parts = (query_XRH[None], key_XLH[None], value_XLH[None], bias_XRL[None])
        return F.scaled_dot_product_attention(*parts, scale=1.0)[0]
    return torch.baddbmm(bias_XRL, query_XRH, key_XLH.transpose(1, 2)).softmax(-1) @ value_XLH


def _heads(x_SLF: Tensor, parts: int, heads: int) -> list[Tensor]:
    return list(x_SLF.unflatten(-1, (parts, heads, -1)).permute(2, 0, 3, 1, 4).flatten(1, 2))


def _scaled_projection(layer: Layer) -> tuple[Tensor, Tensor]:
    """Return weight and bias of query, key and value, the query's divided by the square root of the head width."""
    projection = layer.attention.query_key_value
    inner = projection.out_features // 3
    scale = torch.ones(projection.out_features)
    scale[:inner] = (inner // layer.attention.heads) ** -0.5
    return projection.weight.detach() * scale[:, None], projection.bias.detach() * scale


def _feed_forward(module: nn.Module, target: Target) -> LinearMap:
    if isinstance(module, nn.Linear):
        return linear(module.weight, module.bias, target)
    if isinstance(module, SwiGLU):
        w1, gate, w2 = (linear(part.weight, None, target) for part in (module.w1, module.gate, module.w2))
        return lambda x: w2(F.silu(w1(x)) * gate(x))
    assert isinstance(module, nn.Sequential)
    first, activation, second = module
    assert isinstance(first, nn.Linear)
    assert isinstance(second, nn.Linear)
    widen, narrow = linear(first.weight, first.bias, target), linear(second.weight, second.bias, target)
    return lambda x: narrow(activation(widen(x)))
