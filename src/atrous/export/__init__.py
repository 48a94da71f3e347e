"""Export networks to the files of other runtimes, with the card inside: ONNX, OpenVINO and `torch.export`;
quantize them to 8 bits.
"""

from typing import TYPE_CHECKING

from atrous.lazy import lazy_names

if TYPE_CHECKING:
    from atrous.export.exporter import ExportReport, export_model
    from atrous.export.quantize import QuantizationReport, quantize_model

__all__ = ["ExportReport", "QuantizationReport", "export_model", "quantize_model"]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "ExportReport": ".exporter",
        "QuantizationReport": ".quantize",
        "export_model": ".exporter",
        "quantize_model": ".quantize",
    },
)
