"""Restore a video file: every frame at its own time, sound and color tags kept.

python examples/restore_video.py night.mp4 build/lowlight restored
"""

from __future__ import annotations

import sys
from pathlib import Path

from mirnet_edge.video.files.restoring import restore_video
from mirnet_edge.video.restorer import bundle_restorer


def main(source: str, bundle: str, folder: str) -> None:
    """Restore SOURCE into FOLDER; the same call resumes a run that was interrupted."""
    result = restore_video(
        Path(source),
        bundle_restorer(bundle),
        Path(folder),
        on_frame=lambda done, total: print(f"{done}/{total or '?'}", end="\r", file=sys.stderr),
    )
    print(f"{result.output}: {result.frames} frames in {result.seconds:.1f} s")


if __name__ == "__main__":
    main(*sys.argv[1:])
