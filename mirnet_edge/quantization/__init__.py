"""Quantization: PTQ (`ptq`), QAT (`qat`), fp16 (`half_precision`), TensorRT rules (`legalizer`)."""

from __future__ import annotations

from typing import Literal

# here, so that recipes name it without importing torch
QatTarget = Literal["tensorrt", "cpu"]
"""What quantization-aware training simulates the INT8 of; `qat.QAT_SCHEMES` has the schemes."""
