"""Quantization: PTQ (`ptq`), QAT (`qat`), fp16 (`half_precision`), TensorRT rules (`legalizer`)."""
