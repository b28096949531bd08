"""TensorRT engines: build them in a process of their own, check that they fit, and run them.

    ONNX ─ build_process.build_apart ─► engine, EngineFacts ─ library.find_differences ─► fits?
               └ a worker process, without torch ─ build.build_engine

`cuda` finds a GPU, `rtx` holds what only TensorRT-RTX has, `runner` runs an engine and
`bundle_engines` builds those of a bundle. Nothing here needs torch.
"""
