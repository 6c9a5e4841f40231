"""Who is calling. Every route but the health check takes a ``Caller``; its project bounds all it can see."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request

from graftwork.api.platform import Platform, gateway_of, platform_of
from graftwork.gateway import Authenticated, Gateway


async def authenticate(request: Request) -> Authenticated:
    """The project and key of the ``Authorization`` header.

    Raises:
        Unauthorized: no key, not ours, revoked or expired.
    """
    header = request.headers.get("authorization")
    return await gateway_of(request).authenticate(None if header is None else header.encode("latin-1"))


Caller = Annotated[Authenticated, Depends(authenticate)]
OnPlatform = Annotated[Platform, Depends(platform_of)]
OnGateway = Annotated[Gateway, Depends(gateway_of)]
