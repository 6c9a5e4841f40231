"""The provider port: how machines are found, bought, watched and given back.

A provider only starts and stops machines that are pointed at a run folder; what happens inside is in the
folder. The docstrings below are contracts, held against every provider by ``tests/contract/compute``:
who waits, what may be repeated, what is raised, and who tries again.

All methods are safe to call concurrently, from several control planes at once. Any method may raise
``Credential`` (the account is not ours any more) or ``Unknown`` (the provider did not answer); an
``Unknown`` says nothing about the machine, and is never read as its absence.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol, runtime_checkable

from graftwork.core.errors import MachineError, UserError
from graftwork.core.states import Observed

# ---------------------------------------------------------------------------------------------- errors


class NoCapacity(MachineError):
    """Nothing that fits is free now. No machine was made. Ask for offers again, later or elsewhere."""

    code = "no_capacity"


class StaleOffer(NoCapacity):
    """The offer is too old for its price to be believed. No machine was made. Ask for offers again."""

    code = "offer_stale"


class Unknown(MachineError):
    """The provider's answer is not known: the deed may or may not be done. Look up by name, never repeat."""

    code = "machine_unknown"


class BadRequest(UserError):
    """The provider will never accept this request. No machine was made; repeating it is pointless."""

    code = "machine_request_refused"


class Credential(UserError):
    """The provider does not accept our credentials. Nothing works until the owner mends them."""

    code = "provider_credential"


class Money(UserError):
    """The account has no funds, or a limit of the provider's is reached. No machine was made."""

    code = "provider_funds"


# ----------------------------------------------------------------------------------------------- nouns


class Market(StrEnum):
    """How a machine is bought: kept until given back, or taken away when somebody pays more."""

    ON_DEMAND = "on_demand"
    SPOT = "spot"


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What a job asks of a machine; an offer fits when it has at least this much."""

    cores: int = 1
    memory: int = 0
    """Bytes of main memory."""
    gpus: int = 0
    gpu_memory: int = 0
    """Bytes on each GPU."""
    gpu: tuple[str, ...] = ()
    """Acceptable GPU models; empty is any."""
    regions: tuple[str, ...] = ()
    """Acceptable regions; empty is any."""
    markets: tuple[Market, ...] = (Market.ON_DEMAND,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What a machine would cost now."""

    provider: str
    id: str
    """The provider's own name for this kind of machine; opaque."""
    price_per_hour: int
    """Micro-dollars for the whole machine."""
    fetched_at: float
    """When the price was read; an offer older than ``OFFER_LIFETIME`` seconds cannot be bought."""
    market: Market = Market.ON_DEMAND
    region: str = "local"
    cores: int = 1
    memory: int = 0
    """Bytes of main memory."""
    gpu: str | None = None
    gpus: int = 0
    gpu_memory: int = 0
    """Bytes on each GPU."""


OFFER_LIFETIME = 300.0
"""Seconds for which a quoted price may be bought."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchSpec:
    """What a machine runs."""

    command: list[str]
    """Program and arguments; never a shell line."""
    run_uri: str
    """The run folder the machine is pointed at; also in its environment as ``GRAFTWORK_RUN``."""
    deadline: float
    """Unix time after which the machine must not live, whoever is still there to end it."""
    env: dict[str, str] = field(default_factory=dict[str, str])
    """Everything the command may know; it inherits nothing of the control plane's environment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineInfo:
    """A machine as its provider sees it."""

    name: str
    state: Observed
    id: str | None = None
    """The provider's own identifier; tells two machines of one name apart. None when there is none."""
    created_at: float | None = None
    """When the provider began to make it; the oldest of one name has the smallest."""
    started_at: float | None = None
    """When it began to run, and to cost."""
    ended_at: float | None = None
    """When it ceased to run, and to cost; None while it lives and where the provider does not say."""
    exit_code: int | None = None
    """Exit status of the command; negative is the signal that ended it; None where nobody knows."""
    price_per_hour: int = 0
    """Micro-dollars, as bought."""
    message: str = ""
    """One sentence for people: why it ended, or what it waits for."""
    url: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LogPage:
    """Some whole lines of a machine's log, and where the next page begins."""

    lines: list[str]
    cursor: str


# ------------------------------------------------------------------------------------------------ port


class Provider(Protocol):
    """Where machines come from."""

    @property
    def name(self) -> str:
        """The provider's registered name, as in ``Offer.provider``."""
        ...

    async def offers(self, need: Need) -> list[Offer]:
        """Live offers that fit, cheapest first; empty when this provider can never serve the need.

        One quick request; changes nothing; the caller may repeat it at will. An offer is a price and no
        promise: buying it may still raise ``NoCapacity``.
        """
        ...

    async def launch(self, name: str, spec: LaunchSpec, offer: Offer) -> MachineInfo:
        """Make the machine ``name``, or return the one that already exists under this name.

        Returns as soon as the provider has accepted; the machine may still be provisioning. Create-only:
        where the provider keeps names unique, the same name again adopts the first machine, and the
        command never runs twice. Others may make a second machine, so that callers go through
        ``compute.adoption.launch_once``, which looks up first. Never retried by the provider.

        Raises:
            StaleOffer: the offer is older than ``OFFER_LIFETIME``; no machine.
            NoCapacity: nothing free at this offer; no machine.
            BadRequest: name, command or offer will never be accepted, or the name was used and given
                back before; no machine.
            Money: no funds; no machine.
            Unknown: no clear answer; the machine may exist. The caller must look it up by name.
        """
        ...

    async def find(self, prefix: str) -> list[MachineInfo]:
        """Every machine whose name begins with ``prefix`` and which is not gone, oldest first.

        Exited and broken machines are listed until they are terminated: they may still cost. A machine
        that was accepted a moment ago may be missing for some seconds.
        """
        ...

    async def describe(self, name: str) -> MachineInfo:
        """The machine now; state ``gone`` when the provider confirms that there is none.

        One quick request. When two machines bear one name, the oldest is described.
        """
        ...

    async def terminate(self, name: str, *, machine_id: str | None = None) -> None:
        """Ask that everything under ``name`` (or only ``machine_id`` of it) cease to live and to cost.

        Returns once the provider has accepted, not when it is done: call ``describe`` until it says
        ``gone``. Idempotent; an absent machine is success. The command is asked to stop first
        (SIGTERM), and has some seconds to save its state.
        """
        ...

    async def logs(self, name: str, cursor: str | None = None) -> LogPage:
        """The next lines of the machine's output after ``cursor`` (None: from the beginning).

        Returns at once; no new lines is an empty page with the same cursor. Whole lines only, except the
        last one of an ended machine. A machine without a log gives empty pages. Repeating a cursor gives
        the same lines.
        """
        ...


# ------------------------------------------------------------------------------------------- abilities


@runtime_checkable
class Deadlines(Protocol):
    """Ability: the deadline of a living machine can be moved."""

    async def set_deadline(self, name: str, deadline: float) -> None:
        """Replace the machine's deadline (unix time). Idempotent; an absent or ended machine is success."""
        ...


@runtime_checkable
class Spend(Protocol):
    """Ability: the provider says what it billed, to be held against our own count."""

    async def spend(self, name: str) -> int:
        """Micro-dollars billed so far for all machines ever made under ``name``; 0 for an unknown name."""
        ...
