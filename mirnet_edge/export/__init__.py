"""From weights to a bundle: the ONNX graphs, the gate, the manifest, TensorRT plans."""
