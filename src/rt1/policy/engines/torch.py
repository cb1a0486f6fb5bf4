"""The engine ``torch``: the network itself, on the CPU or an accelerator."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rt1.actions import FloatArray
from rt1.errors import first_line
from rt1.model.heads import parameter_counts
from rt1.model.inference import ActingNetwork
from rt1.model.rt1 import RT1
from rt1.policy.base import check_image
from rt1.policy.engines.base import Engine, full_window
from rt1.policy.exported_manifest import Precision, Sizes

_LOG = logging.getLogger(__name__)
Function = Callable[..., Any]


class TorchEngine(Engine):
    """The network with folded weights, run by torch. On a GPU each step is replayed as CUDA graphs."""

    name = "torch"

    def __init__(self, model: RT1, *, precision: Precision = "fp32", device: str = "cpu") -> None:
        """Copy and fold a network's weights as they are now.

        Args:
            model: the network. It is put into evaluation mode and stays where it is.
            precision: ``fp32``, or ``bf16`` for all but the text and the logits.
            device: as torch names it. ``auto`` for the accelerator, where there is one.

        Raises:
            ValueError: a network of several embodiments, or a device or precision that does not run here.
        """
        if model.config.embodiments:
            raise ValueError(
                f"this network has {len(model.config.embodiments)} embodiments. Load the network of one: "
                "load_model(checkpoint, embodiment=NAME)"
            )
        self.model, self.precision, self.sizes = model.eval(), precision, network_sizes(model)
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        try:
            self._device = acting_device(device)
            self._network = ActingNetwork(model, dtype).to(self._device)
            self._network.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            self._encode, self._decode = self._functions()
            if precision != "fp32" or self._device.type != "cpu":
                self._try()
        except (RuntimeError, AssertionError) as error:  # an unknown device, or a torch without CUDA
            if precision == "fp32" and device == "cpu":
                raise
            raise ValueError(
                f"the engine {self.label!r} cannot run on {device}: {first_line(error)}. Use 'torch' on cpu, or 'auto'"
            ) from error

    def _functions(self) -> tuple[Function, Function]:
        network = self._network
        if self._device.type == "cuda":
            return Graphed(network.encode), Graphed(network.decode)
        return network.encode, network.decode

    def _try(self) -> None:
        """Take one step, which tells whether the machine can."""
        sizes = self.sizes
        condition = self.condition(np.zeros((1, sizes.text_width), np.float32), dropped=False)
        token_1KE, _ = self.encode(np.zeros((1, *sizes.image_size, 3), np.float32), condition)
        self.decode(token_1KE[:, None], np.zeros(1, np.int64), condition)

    def prepare(self, image: NDArray[Any]) -> FloatArray:
        """Return the image as training prepares it, to the last bit."""
        check_image(image)
        prepared_1CHW = self.model.prepare(torch.from_numpy(np.array(image, order="C"))[None])
        return prepared_1CHW[0].float().permute(1, 2, 0).numpy()

    @torch.inference_mode()
    def condition(self, text_SE: FloatArray, *, dropped: bool) -> FloatArray:
        dropped_S = torch.ones(len(text_SE), dtype=torch.bool, device=self._device) if dropped else None
        return self._network.condition(self._tensor(text_SE), dropped_S).cpu().numpy()

    @torch.inference_mode()
    def encode(self, image_SHWC: FloatArray, condition: FloatArray) -> tuple[FloatArray, FloatArray]:
        image_SCHW = self._tensor(image_SHWC).permute(0, 3, 1, 2)
        token_SKE, map_SKP = self._encode(image_SCHW, self._tensor(condition))
        return token_SKE.float().cpu().numpy(), map_SKP.float().cpu().numpy()

    @torch.inference_mode()
    def decode(self, token_STKE: FloatArray, step_S: NDArray[np.int64], condition: FloatArray) -> FloatArray:
        if self._device.type == "cuda":  # one graph for each number of robots, not for each length of an episode
            token_STKE = full_window(token_STKE, self.sizes.window)
        return self._decode(self._tensor(token_STKE), self._tensor(step_S), self._tensor(condition)).cpu().numpy()

    def _tensor(self, array: NDArray[Any]) -> Tensor:
        return torch.from_numpy(array).to(self._device)


class Graphed:
    """A function of CUDA tensors as CUDA graphs, one for each shape of its inputs. Its results are overwritten."""

    def __init__(self, function: Function) -> None:
        self._function = function
        self._graphs: dict[tuple[torch.Size, ...], Function] = {}

    def __call__(self, *inputs: Tensor) -> Any:  # noqa: ANN401 (what the function returns)
        """Return the function's result, which the next call overwrites."""
        shapes = tuple(tensor.shape for tensor in inputs)
        if shapes not in self._graphs:
            self._graphs[shapes] = self._graph(inputs)
        return self._graphs[shapes](*inputs)

    def _graph(self, inputs: tuple[Tensor, ...]) -> Function:
        samples = tuple(tensor.clone() for tensor in inputs)
        try:
            with torch.inference_mode(mode=False):
                return torch.cuda.make_graphed_callables(self._function, tuple(s.clone() for s in samples))
        except RuntimeError as error:
            _LOG.warning("CUDA graphs cannot be used, a step takes longer: %s", first_line(error))
            return self._function


def acting_device(name: str) -> torch.device:
    """Return the device of a name. Of ``auto`` the accelerator, or the CPU where there is none."""
    if name != "auto":
        return torch.device(name)
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    return torch.device("cpu") if accelerator is None else accelerator


def network_sizes(model: RT1) -> Sizes:
    """Return what the host of a network must know of it."""
    config = model.config
    return Sizes(
        window=config.window,
        image_size=config.image_size,
        grid=config.grid,
        text_width=config.text_width,
        vocabulary=config.text.vocabulary,
        guidance=config.text.drop > 0.0,
        image_tokens=config.image_tokens,
        token_width=config.token_width,
        parameters=parameter_counts(model)["total"],
    )
