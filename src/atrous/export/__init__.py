"""Export networks to the files of other runtimes, with the card inside: ONNX, OpenVINO and `torch.export`."""

from typing import TYPE_CHECKING

from atrous.lazy import lazy_names

if TYPE_CHECKING:
    from atrous.export.exporter import ExportReport, export_model

__all__ = ["ExportReport", "export_model"]

__getattr__, __dir__ = lazy_names(__name__, {"ExportReport": ".exporter", "export_model": ".exporter"})
