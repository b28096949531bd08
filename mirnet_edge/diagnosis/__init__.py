"""Diagnosis: what is wrong with an image or a video, and which tasks restore it.

    frame ─ take_views ─► overview, crops ─ network ─► scores ─ Diagnosis ─► tasks

Needs neither torch nor a bundle: the network is an ONNX file of this package.
"""

from mirnet_edge.diagnosis.labels import FINE, LABELS, Label, TopLabel
from mirnet_edge.diagnosis.network import diagnose_frames
from mirnet_edge.diagnosis.result import Diagnosis

__all__ = ["FINE", "LABELS", "Diagnosis", "Label", "TopLabel", "diagnose_frames"]
