"""What each format needs, said before the work starts; and the smaller graphs of a lower precision."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from rt1.errors import ExportError
from rt1.policy.export import formats
from rt1.policy.export.formats import PRECISIONS, check_possible, versions, write_graphs
from rt1.policy.export.graphs import Programs
from rt1.policy.exported_manifest import Format, Precision


@pytest.mark.parametrize(
    ("to", "precision", "message"),
    [
        ("openvino", "int8", "int8 cannot be exported to openvino, which has fp32, bf16. Export to onnx, or leave"),
        ("onnx", "bf16", "bf16 cannot be exported to onnx, which has fp32, int8. Export to openvino"),
        ("aoti", "bf16", "bf16 cannot be exported to aoti, which has fp32"),
    ],
)
def test_a_precision_that_a_format_lacks_is_refused_with_one_that_has_it(
    to: Format, precision: Precision, message: str
) -> None:
    with pytest.raises(ExportError, match=message):
        check_possible(to, precision)


@pytest.mark.parametrize(("to", "extra"), [("onnx", "export-onnx"), ("openvino", "openvino")])
def test_a_missing_package_names_the_extra_that_brings_it(
    monkeypatch: pytest.MonkeyPatch, to: Format, extra: str
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(ExportError, match=rf"an export to {to} needs .*Run: pip install 'rt1\[{extra}\]'"):
        check_possible(to, "fp32")


def test_a_missing_compiler_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(ExportError, match=r"needs a C\+\+ compiler, and g\+\+ or clang\+\+ is not there. Install one"):
        check_possible("aoti", "fp32")
    monkeypatch.setenv("CXX", "my-compiler")
    with pytest.raises(ExportError, match="and my-compiler is not there"):
        check_possible("aoti", "fp32")


def test_torch_export_needs_nothing_but_torch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    check_possible("torch-export", "fp32")
    assert sorted(versions("torch-export")) == ["cpu", "rt1", "torch"]


@pytest.mark.parametrize("to", ["openvino", "torch-export"])
def test_a_full_disk_is_an_error_of_the_file(to: Format, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def save(*_: object, **__: object) -> None:
        raise RuntimeError("iostream error")

    program = torch.export.export(torch.nn.Identity(), (torch.zeros(2),))
    graph = SimpleNamespace(inputs=["input"], reshape=lambda _: None)
    library = SimpleNamespace(convert_model=lambda _: graph, save_model=save, PartialShape=list)
    monkeypatch.setattr(formats, "import_openvino", lambda: library)
    monkeypatch.setattr(torch.export, "save", save)
    programs = Programs(condition=program, tokenizer=program, decoder=program)
    with pytest.raises(OSError, match=r"condition\.(xml|pt2) cannot be written \(iostream error\)"):
        write_graphs(programs, tmp_path, to=to, precision="fp32")


class FiveDimensions(torch.nn.Module):
    """Attention of a shape that ONNX' exporter does not know."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.scaled_dot_product_attention(x, x, x)


def test_what_onnx_cannot_express_is_said_in_one_line(onnx_export: tuple[Path, Path], tmp_path: Path) -> None:
    assert onnx_export
    odd = torch.export.export(FiveDimensions().eval(), (torch.randn(1, 2, 2, 4, 8),))
    with pytest.raises(
        ExportError, match=r"ONNX cannot express this network's condition \(.+\). Export to torch"
    ) as caught:
        write_graphs(Programs(condition=odd, tokenizer=odd, decoder=odd), tmp_path, to="onnx", precision="fp32")
    assert "\n" not in str(caught.value)


def test_every_format_has_float32() -> None:
    assert all("fp32" in known for known in PRECISIONS.values())


def test_int8_is_for_the_matrix_products_of_the_decoder(onnx_export: tuple[Path, Path], int8_export: Path) -> None:
    assert b"DynamicQuantizeLinear" in (int8_export / "decoder.onnx").read_bytes()
    assert b"DynamicQuantizeLinear" not in (onnx_export[1] / "decoder.onnx").read_bytes()
    assert b"DynamicQuantizeLinear" not in (int8_export / "tokenizer.onnx").read_bytes()


def test_the_weights_of_an_int8_export_have_no_sign_so_that_no_sum_saturates(int8_export: Path) -> None:
    onnx = pytest.importorskip("onnx", reason="onnx is not installed; it comes with the extra export-onnx")
    graph = onnx.load(int8_export / "decoder.onnx").graph
    types = {tensor.data_type for tensor in graph.initializer if tensor.name.endswith("_quantized")}
    assert types == {onnx.TensorProto.UINT8}


def test_products_of_the_largest_values_of_an_int8_export_are_exact_on_this_processor() -> None:
    onnx = pytest.importorskip("onnx", reason="onnx is not installed; it comes with the extra export-onnx")
    runtime = pytest.importorskip("onnxruntime", reason="it comes with the extra export-onnx")
    weight = onnx.numpy_helper.from_array(np.full((64, 48), 255, np.uint8), "weight")
    ports = [
        onnx.helper.make_tensor_value_info("x", onnx.TensorProto.UINT8, [32, 64]),
        onnx.helper.make_tensor_value_info("y", onnx.TensorProto.INT32, [32, 48]),
    ]
    product = onnx.helper.make_node("MatMulInteger", ["x", "weight"], ["y"])
    graph = onnx.helper.make_graph([product], "largest", ports[:1], ports[1:], [weight])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)
    session = runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {"x": np.full((32, 64), 255, np.uint8)})
    assert (y == 64 * 255 * 255).all()
