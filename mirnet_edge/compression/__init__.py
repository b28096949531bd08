"""Making a network cheaper: exact rewrites, quantization, and what TensorRT allows of it."""
