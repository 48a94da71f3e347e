"""Export networks to the files of other runtimes, with the card inside: ONNX, OpenVINO and `torch.export`;
quantize them to 8 bits; push weights to the Hugging Face hub.
"""

from typing import TYPE_CHECKING

from atrous.lazy import lazy_names

if TYPE_CHECKING:
    from atrous.export.exporter import ExportReport, export_model
    from atrous.export.push import PushReport, push_to_hub
    from atrous.export.quantize import QuantizationReport, quantize_model

__all__ = ["ExportReport", "PushReport", "QuantizationReport", "export_model", "push_to_hub", "quantize_model"]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "ExportReport": ".exporter",
        "PushReport": ".push",
        "QuantizationReport": ".quantize",
        "export_model": ".exporter",
        "push_to_hub": ".push",
        "quantize_model": ".quantize",
    },
)
