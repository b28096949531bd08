"""Export: weights to a bundle with ONNX graphs, quality gate, manifest, TensorRT engines."""
