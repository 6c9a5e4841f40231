"""The provider port onto a simulated cloud: strict as a real one, broken on demand (``cloud.faults``)."""

from __future__ import annotations

from dataclasses import replace

from graftwork.compute.names import check_name
from graftwork.compute.offers import fits
from graftwork.compute.port import (
    OFFER_LIFETIME,
    BadRequest,
    Credential,
    LaunchSpec,
    LogPage,
    MachineInfo,
    Money,
    Need,
    NoCapacity,
    Offer,
    StaleOffer,
    Unknown,
)
from graftwork.core.states import Observed
from graftwork.testing.simulated_cloud import SimulatedCloud


class SimulatedProvider:
    """Implements ``Provider``, ``Deadlines`` and ``Spend``."""

    name = "simulated"

    def __init__(self, cloud: SimulatedCloud) -> None:
        """Args: ``cloud`` may be shared by several providers, as by several control planes."""
        self.cloud = cloud

    async def offers(self, need: Need) -> list[Offer]:
        """See ``Provider.offers``."""
        self._check_credential()
        now = self.cloud.clock.now()
        fitting = [replace(o, fetched_at=now) for o in self.cloud.catalogue.values() if fits(o, need)]
        return sorted(fitting, key=lambda offer: offer.price_per_hour)

    async def launch(self, name: str, spec: LaunchSpec, offer: Offer) -> MachineInfo:
        """See ``Provider.launch``."""
        self.cloud.launches.append(name)
        self._check_credential()
        check_name(name)
        now = self.cloud.clock.now()
        same = self.cloud.present(name)
        if same and self.cloud.unique_names:
            return same[0].info(now)
        self._check_order(spec, offer, now)
        self._strike_launch()
        machine = self.cloud.make(name, spec, offer)
        if self.cloud.faults.strikes("launch_lost_reply"):
            raise Unknown("The simulated cloud took the request and did not answer.")
        return machine.info(now)

    async def find(self, prefix: str) -> list[MachineInfo]:
        """See ``Provider.find``."""
        self._check_credential()
        if self.cloud.faults.strikes("find_lost"):
            raise Unknown("The simulated cloud did not list its machines.")
        now = self.cloud.clock.now()
        visible = now - self.cloud.faults.blind_seconds
        return [
            machine.info(now)
            for machine in self.cloud.machines
            if machine.name.startswith(prefix) and machine.created_at <= visible and not machine.gone(now)
        ]

    async def describe(self, name: str) -> MachineInfo:
        """See ``Provider.describe``."""
        self._check_credential()
        check_name(name)
        if self.cloud.faults.strikes("describe_lost"):
            raise Unknown("The simulated cloud did not say how the machine is.")
        present = self.cloud.present(name)
        return present[0].info(self.cloud.clock.now()) if present else _gone(name)

    async def terminate(self, name: str, *, machine_id: str | None = None) -> None:
        """See ``Provider.terminate``."""
        self._check_credential()
        check_name(name)
        if self.cloud.faults.strikes("terminate_lost"):
            raise Unknown("The simulated cloud did not confirm the termination.")
        for machine in self.cloud.present(name):
            if machine_id in (None, machine.id):
                self.cloud.remove(machine)

    async def logs(self, name: str, cursor: str | None = None) -> LogPage:
        """See ``Provider.logs``."""
        self._check_credential()
        check_name(name)
        start = int(cursor or "0")
        lines = next((machine.lines for machine in self.cloud.machines if machine.name == name), [])
        return LogPage(lines=lines[start:], cursor=str(max(start, len(lines))))

    async def set_deadline(self, name: str, deadline: float) -> None:
        """See ``Deadlines.set_deadline``."""
        check_name(name)
        for machine in self.cloud.living(name):
            machine.deadline = deadline

    async def spend(self, name: str) -> int:
        """See ``Spend.spend``."""
        now = self.cloud.clock.now()
        return sum(machine.bill(now) for machine in self.cloud.machines if machine.name == name)

    def _strike_launch(self) -> None:
        faults = self.cloud.faults
        if faults.strikes("launch_refused"):
            raise BadRequest("The simulated cloud refuses this request.")
        if faults.strikes("launch_no_money"):
            raise Money("The simulated account is empty.", fix="Top it up.")
        if faults.strikes("launch_no_capacity"):
            raise NoCapacity("Nothing is free now.", fix="Try another offer.")
        if faults.strikes("launch_lost_request"):
            raise Unknown("The simulated cloud did not answer.")

    def _check_credential(self) -> None:
        if self.cloud.faults.bad_credential:
            raise Credential("The simulated cloud does not know this key.", fix="Set another key.")

    def _check_order(self, spec: LaunchSpec, offer: Offer, now: float) -> None:
        known = self.cloud.catalogue.get(offer.id)
        if known is None or replace(known, fetched_at=offer.fetched_at) != offer:
            raise BadRequest(f"The offer {offer.id} is none of ours.", param="offer")
        if now - offer.fetched_at > OFFER_LIFETIME:
            raise StaleOffer("The offer is too old to be bought.", fix="Ask for offers again.")
        if not spec.command:
            raise BadRequest("The machine has no command to run.", fix="Name a program.", param="command")
        if spec.deadline <= now:
            raise BadRequest("The machine's deadline has passed.", fix="Set a later one.", param="deadline")


def _gone(name: str) -> MachineInfo:
    return MachineInfo(name=name, state=Observed.GONE)
