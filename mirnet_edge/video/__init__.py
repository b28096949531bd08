"""Video: files (`files`), live sources, pipeline and sinks (`live`), the live page (`web`)."""
