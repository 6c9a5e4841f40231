"""The request path: keys, resolution, limits, streaming, metering."""

from graftwork.gateway.app import Authenticated, Gateway, GatewaySettings, new_request_id

__all__ = ["Authenticated", "Gateway", "GatewaySettings", "new_request_id"]
