"""The local provider: this host's slots behind the provider port.

A machine that ended stays listed as ``exited`` until it is terminated; then its folder is kept a week for its
log. The supervisors live in sessions of their own: killing the control plane ends no machine.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from graftwork.compute.local.host import Host
from graftwork.compute.local.models import LocalOptions
from graftwork.compute.names import check_name
from graftwork.compute.offers import fits
from graftwork.compute.port import (
    OFFER_LIFETIME,
    BadRequest,
    LaunchSpec,
    LogPage,
    MachineInfo,
    Need,
    Offer,
    StaleOffer,
)
from graftwork.core.clock import Clock, SystemClock
from graftwork.core.errors import InvalidRequest


class LocalProvider:
    """Machines on this host. Implements ``Provider`` and ``Deadlines``."""

    name = "local"

    def __init__(
        self,
        root: Path,
        options: LocalOptions | None = None,
        *,
        clock: Clock | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Args: ``root`` holds the machines' folders; ``environment`` is what machines see a part of."""
        self._options = options or LocalOptions()
        self._clock = clock or SystemClock()
        source = os.environ if environment is None else environment
        self._host = Host(root, self._options, source)

    async def offers(self, need: Need) -> list[Offer]:
        """One slot of this host, if it is enough. See ``Provider.offers``."""
        options = self._options
        offer = Offer(
            provider=self.name,
            id="slot",
            price_per_hour=options.price_per_hour,
            fetched_at=self._clock.now(),
            cores=max(1, _cores() // options.slots),
            memory=_memory() // options.slots,
            gpu=options.gpu,
            gpus=options.gpus,
            gpu_memory=options.gpu_memory,
        )
        return [offer] if fits(offer, need) else []

    async def launch(self, name: str, spec: LaunchSpec, offer: Offer) -> MachineInfo:
        """Start a supervised process group; returns when its supervisor stands. See ``Provider.launch``."""
        check_name(name)
        if offer.provider != self.name:
            raise BadRequest(f"This offer is of {offer.provider}, not of {self.name}.", param="offer")
        if not spec.command or any("\0" in word for word in spec.command):
            raise BadRequest("The machine has no command to run.", fix="Name a program.", param="command")
        now = self._clock.now()
        if now - offer.fetched_at > OFFER_LIFETIME:
            present = await self.describe(name)
            if present.id is None:
                raise StaleOffer("The offer is too old to be bought.", fix="Ask for offers again.")
        return await asyncio.to_thread(self._host.launch, name, spec, offer.price_per_hour, now)

    async def find(self, prefix: str) -> list[MachineInfo]:
        """See ``Provider.find``."""
        return await asyncio.to_thread(self._host.find, prefix)

    async def describe(self, name: str) -> MachineInfo:
        """See ``Provider.describe``."""
        check_name(name)
        return await asyncio.to_thread(self._host.machine(name).info)

    async def terminate(self, name: str, *, machine_id: str | None = None) -> None:
        """See ``Provider.terminate``."""
        check_name(name)
        await asyncio.to_thread(self._host.machine(name).terminate, machine_id)

    async def logs(self, name: str, cursor: str | None = None) -> LogPage:
        """See ``Provider.logs``."""
        check_name(name)
        return await asyncio.to_thread(self._host.machine(name).logs, cursor)

    async def set_deadline(self, name: str, deadline: float) -> None:
        """See ``Deadlines.set_deadline``."""
        check_name(name)
        await asyncio.to_thread(self._host.machine(name).set_deadline, deadline)


def create(root: Path, clock: Clock, options: Mapping[str, Any]) -> LocalProvider:
    """Factory for the registry.

    Raises:
        InvalidRequest: an option is unknown or out of range.
    """
    try:
        checked = LocalOptions.model_validate(dict(options))
    except ValidationError as error:
        first = error.errors()[0]
        raise InvalidRequest(
            f"The local provider's option {'.'.join(map(str, first['loc']))} is wrong: {first['msg']}.",
            fix=f"Its options are: {', '.join(LocalOptions.model_fields)}.",
            param="options",
        ) from error
    return LocalProvider(root, checked, clock=clock)


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
