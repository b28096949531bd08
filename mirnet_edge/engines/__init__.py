"""TensorRT plans: build them apart, say what they are, and tell whether they fit this machine.

    ONNX ─ process.build_apart ─► plan + EngineFacts ─ identity.differences ─► fits, or what differs
               └ worker (a process of its own, without torch) ─ build.build_engine

`library` finds a TensorRT, `cuda` a GPU, `rtx` holds what only TensorRT-RTX has. `execution` runs a
plan; `fake` and `fake_cuda` are a TensorRT and a GPU for tests. Nothing here needs torch.
"""
