"""Fakes for tests: a runner without a network, TensorRT and CUDA without a GPU."""
