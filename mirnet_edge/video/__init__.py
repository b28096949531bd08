"""Video: files (`files`), live sources and sinks (`live`), the live page (`web`)."""
