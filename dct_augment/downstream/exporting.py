"""Writes a kept classifier in formats that run without this package: ONNX, and torch.export."""

import json
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import timm
import torch
from torch import nn

from dct_augment import classifiers, files
from dct_augment.classifiers.names import resolve
from dct_augment.errors import ExportError, InputError, ModelError
from dct_augment.wording import in_one_line

Format = Literal["onnx", "torch_export"]
ENDINGS: Mapping[str, str] = {"onnx": ".onnx", "torch_export": ".pt2"}
"""What the file of each format ends in."""

_INPUT, _OUTPUT = "images", "probabilities"
_TOLERANCE = 1e-4
_OPSET = 18


class Probabilities(nn.Module):
    """From preprocessed images (B, 3, H, W) to calibrated probabilities (B, K): softmax(logits / temperature)."""

    def __init__(self, model: nn.Module, temperature: float) -> None:
        super().__init__()
        self.model, self.temperature = model, temperature

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Compute the probabilities."""
        return (self.model(images) / self.temperature).softmax(1)


def export_classifier(folder: str | Path, format: str, path: str | Path) -> Path:
    """Write a classifier as one file that runs without this package.

    It takes preprocessed images (B, 3, H, W), any number of them, and gives calibrated probabilities (B, K). Its
    metadata say what the preprocessing is: `labels`, `preprocessing`, `temperature` and `threshold`, each a JSON text.
    The file is compared with the model before it gets its name.

    Args:
        folder: a run folder, the folder of a classifier, or `pocket/NAME`.
        format: `onnx`, or `torch_export` for `torch.export.load`.
        path: the file to write, `.onnx` or `.pt2`; one that is there is replaced.

    Returns:
        The path.

    Raises:
        InputError: another format or ending, or the packages for it are not installed.
        ModelError: no timm classifier there.
        ExportError: the model cannot be written in this format, or the file gives other probabilities.

    Examples:
        >>> import dct_augment, torch
        >>> path = dct_augment.export_classifier("pocket/birds-guide", "torch_export", "birds.pt2")
        >>> torch.export.load(path).module()(torch.zeros(2, 3, 64, 64)).shape
        torch.Size([2, 20])
    """
    path = Path(path)
    _check_request(format, path)
    location = Path(resolve(str(folder), "timm").location)
    if not location.is_dir():
        raise ModelError(f"{str(folder)!r} is no folder; give a run folder, the folder of a classifier, or pocket/NAME")
    loaded = classifiers.load(f"local-dir:{location}")
    model = timm.create_model(f"local-dir:{location}", pretrained=True, exportable=True)
    data = timm.data.resolve_model_data_config(model)
    metadata = {
        "labels": json.dumps(loaded.labels),
        "preprocessing": json.dumps(data),
        "temperature": json.dumps(loaded.temperature),
        "threshold": json.dumps(loaded.threshold),
    }
    module = Probabilities(model, loaded.temperature).eval().requires_grad_(False)
    write, open_file = _FORMATS[format]
    with files.atomic(path) as partial:
        try:
            write(module, _images(2, data), metadata, partial)  # the size of a batch of one would be fixed
        except Exception as error:  # whatever the exporters raise over a layer that they do not know
            reason = in_one_line(error)
            raise ExportError(
                f"{str(folder)!r} cannot be written as {format}: {type(error).__name__}: {reason}. Try the other "
                "format, or another downstream.model"
            ) from error
        _compare(module, open_file(partial), data, f"{str(folder)!r} as {format}")
    return path


def _check_request(format: str, path: Path) -> None:
    """Check that a format exists, that its packages are installed, and that the path fits it.

    Raises:
        InputError: it does not.
    """
    if format not in get_args(Format):
        raise InputError(f"format {format!r} does not exist; there are: {', '.join(get_args(Format))}")
    if path.suffix != ENDINGS[format]:
        raise InputError(f"{str(path)!r}: a file of format {format} ends in {ENDINGS[format]}")
    if path.is_dir():
        raise InputError(f"{str(path)!r} is a folder; give the path of a file")
    if format == "onnx":
        try:
            import onnx  # noqa: F401
            import onnxruntime  # noqa: F401
            import onnxscript  # noqa: F401
        except ImportError as error:
            raise InputError(
                f"format onnx needs the packages onnx, onnxscript and onnxruntime ({error.name} is missing): "
                "pip install 'dct-augment[onnx]'"
            ) from error


def _images(count: int, data: Mapping[str, Any]) -> torch.Tensor:
    """Make inputs of noise, the same each time."""
    return torch.randn(count, *data["input_size"], generator=torch.Generator().manual_seed(count))


def _write_onnx(module: nn.Module, images: torch.Tensor, metadata: Mapping[str, str], path: Path) -> None:
    import onnx

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter, about its own parts
        torch.onnx.export(
            module,
            (images,),
            str(path),
            input_names=[_INPUT],
            output_names=[_OUTPUT],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            opset_version=_OPSET,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    model = onnx.load(str(path))
    onnx.helper.set_model_props(model, dict(metadata))
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


def _open_onnx(path: Path) -> Callable[[torch.Tensor], torch.Tensor]:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def answer(images: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(session.run([_OUTPUT], {_INPUT: images.numpy()})[0])

    return answer


def _write_torch_export(module: nn.Module, images: torch.Tensor, metadata: Mapping[str, str], path: Path) -> None:
    program = torch.export.export(module, (images,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    with path.open("wb") as stream:
        torch.export.save(program, stream, extra_files={f"{key}.json": text for key, text in metadata.items()})


def _open_torch_export(path: Path) -> Callable[[torch.Tensor], torch.Tensor]:
    with path.open("rb") as stream:
        module = torch.export.load(stream).module()
    return lambda images: module(images)


_FORMATS = {"onnx": (_write_onnx, _open_onnx), "torch_export": (_write_torch_export, _open_torch_export)}
"""What writes and what opens a file of each format."""


@torch.no_grad()
def _compare(
    module: nn.Module, answer: Callable[[torch.Tensor], torch.Tensor], data: Mapping[str, Any], what: str
) -> None:
    """Compare a written file with the model, on batches of one and of three.

    Raises:
        ExportError: the probabilities differ, or the file does not take such a batch.
    """
    for count in (1, 3):
        images = _images(count, data)
        expected = module(images)
        try:
            found = answer(images)
        except Exception as error:  # whatever a runtime raises
            reason = in_one_line(error)
            raise ExportError(
                f"{what} does not take a batch of {count} images: {reason}. Nothing was written"
            ) from error
        difference = float((found - expected).abs().max()) if found.shape == expected.shape else float("inf")
        if not difference <= _TOLERANCE:
            raise ExportError(
                f"{what} gives other probabilities than the model, by up to {difference:.2g}. Nothing was written; try "
                "the other format"
            )
