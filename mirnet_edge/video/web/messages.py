"""What a page may ask over its WebSocket, and what it is told."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from mirnet_edge.video.web.picture import INDEX_LIMIT

if TYPE_CHECKING:
    from mirnet_edge.video.frames import Shown


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Offer(_Request):
    """Connect by WebRTC."""

    do: Literal["offer"]
    sdp: str


class Refresh(_Request):
    """Send a whole picture: the decoder is stuck."""

    do: Literal["refresh"]


class Hangup(_Request):
    """End WebRTC; the page goes over to the fallback."""

    do: Literal["hangup"]


class Restoring(_Request):
    """Switch restoration on or off."""

    do: Literal["restoring"]
    on: bool


class Frozen(_Request):
    """Let the picture stand still or go on."""

    do: Literal["frozen"]
    on: bool


class ChooseMode(_Request):
    """Go over to another backend or precision."""

    do: Literal["mode"]
    mode: str


Request = Offer | Refresh | Hangup | Restoring | Frozen | ChooseMode
parse_request: TypeAdapter[Request] = TypeAdapter(Annotated[Request, Field(discriminator="do")])


def figures_message(shown: Shown, *, viewers: int, viewer_drops: int) -> dict[str, Any]:
    """Return what the page writes beside the picture."""
    height, width = shown.after.shape[:2]
    return {
        "say": "figures",
        **asdict(shown.figures),
        "index": shown.before.index % INDEX_LIMIT,
        "restored": shown.restored,
        "width": width,
        "height": height,
        "viewers": viewers,
        "viewer_drops": viewer_drops,
    }
