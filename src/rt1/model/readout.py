"""The rows of the transformer that one step's action needs.

Shape letters: B batch, T window, K tokens per image, N = T*K image rows, A action dimensions, E token width, L rows,
R rows that are read, D transformer width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rt1.model.transformer import Transformer


class StepReadout(nn.Module):
    """Computes only the rows that the action of one step depends on, image rows first, action rows behind them.

    The last layer computes only the rows that are read. Where nothing attends to action tokens, those of other steps
    are left out of all layers.
    """

    mask_LL: Tensor
    image_N: Tensor
    action_TA: Tensor

    def __init__(
        self, mask_LL: Tensor, *, image_tokens: int, step_tokens: int, attends_actions: bool, reads_mean: bool
    ) -> None:
        """Store the layout of the sequence.

        Args:
            mask_LL: bool (L, L), True where a row attends to a column, steps one after another.
            image_tokens: K, which come first in a step.
            step_tokens: tokens of a step, action tokens included.
            attends_actions: whether any row attends to an action token.
            reads_mean: without action tokens: read all image tokens of the step instead of the last one.
        """
        super().__init__()
        index_TS = torch.arange(len(mask_LL)).unflatten(0, (-1, step_tokens))
        self.image_tokens, self.attends_actions, self.reads_mean = image_tokens, attends_actions, reads_mean
        self.register_buffer("mask_LL", mask_LL, persistent=False)
        self.register_buffer("image_N", index_TS[:, :image_tokens].flatten(), persistent=False)
        self.register_buffer("action_TA", index_TS[:, image_tokens:].contiguous(), persistent=False)

    def forward(self, transformer: Transformer, token_BTKE: Tensor, step_B: Tensor, text: Tensor | None) -> Tensor:
        """Return the transformer's output (B, R, D) at the rows that the action of step ``step_B`` is read from."""
        batch, steps = token_BTKE.shape[:2]  # not len(), which a trace would take as a constant
        images = steps * self.image_tokens
        image_N = self.image_N[:images]
        # Action tokens are zeros: only the biases and their positions are left.
        position_LD = transformer.position_LD + transformer.position_bias_D
        image_BND = transformer.embed(token_BTKE.flatten(1, 2)) + position_LD[image_N]
        if self.attends_actions:
            action_M = self.action_TA[:steps].flatten()
            row_L = torch.cat([image_N, action_M])
            action_BMD = (position_LD[action_M] + transformer.embed.bias).expand(batch, -1, -1)
            mask, first_B1 = self.mask_LL[row_L][:, row_L], images + step_B[:, None] * self.action_TA.shape[1]
        else:
            action_BM = self.action_TA[step_B, :-1]
            action_BMD = position_LD[action_BM] + transformer.embed.bias
            image_BNN = self.mask_LL[image_N][:, image_N].expand(batch, -1, -1)
            mask = torch.cat([image_BNN, self.mask_LL[action_BM][..., image_N]], dim=1)[:, None]
            first_B1 = torch.full_like(step_B[:, None], images)
        read_BR = self._rows(step_B[:, None], first_B1)
        x_BLD = torch.cat([image_BND, action_BMD], dim=1)
        keys = None if self.attends_actions else images
        for layer in transformer.layers[:-1]:
            x_BLD = layer(x_BLD, mask, text, keys=keys)
        read_mask = (
            mask[read_BR][:, None]
            if self.attends_actions
            else mask[:, 0].gather(1, read_BR[..., None].expand(-1, -1, images))[:, None]
        )
        return transformer.layers[-1](x_BLD, read_mask, text, keys=keys, read_BR=read_BR)

    def _rows(self, step_B1: Tensor, first_action_B1: Tensor) -> Tensor:
        """Return the rows (B, R) that are read, given the first action row of each step."""
        actions, first_image_B1 = self.action_TA.shape[1], step_B1 * self.image_tokens
        if self.reads_mean:
            return first_image_B1 + torch.arange(self.image_tokens, device=step_B1.device)
        # One place early: the last image token predicts dimension 0, action token k predicts k + 1.
        later_BR = first_action_B1 + torch.arange(max(0, actions - 1), device=step_B1.device)
        return torch.cat([first_image_B1 + self.image_tokens - 1, later_BR], dim=1)
