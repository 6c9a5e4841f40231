"""A cloud that exists only in memory: its machines, its faults and its bill.

Time is an injected clock: machines go from requested to provisioning to running, and reach their deadlines,
as the clock is moved. ``SimulatedProvider`` is the door to it; several control planes may share one cloud.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from graftwork.compute.port import LaunchSpec, MachineInfo, Market, NoCapacity, Offer
from graftwork.core.clock import Clock
from graftwork.core.money import seconds_cost
from graftwork.core.states import Observed

GIB = 1 << 30


def _offer(id: str, price_per_hour: int, gpus: int = 0, market: Market = Market.ON_DEMAND) -> Offer:
    return Offer(
        provider="simulated",
        id=id,
        price_per_hour=price_per_hour,
        fetched_at=0.0,
        market=market,
        cores=16 if gpus else 4,
        memory=(128 if gpus else 16) * GIB,
        gpu="SIM80" if gpus else None,
        gpus=gpus,
        gpu_memory=80 * GIB if gpus else 0,
    )


CATALOGUE = (
    _offer("cpu", 100_000),
    _offer("gpu-spot", 900_000, gpus=1, market=Market.SPOT),
    _offer("gpu", 2_500_000, gpus=1),
)


@dataclass(kw_only=True)
class Faults:
    """What goes wrong. Counters count down by one each time they strike; change them at any time."""

    launch_no_capacity: int = 0
    """Launches that find nothing free."""
    launch_no_money: int = 0
    launch_refused: int = 0
    launch_lost_request: int = 0
    """Launches that time out *before* anything was made."""
    launch_lost_reply: int = 0
    """Launches that time out *after* the machine was made."""
    terminate_lost: int = 0
    """Terminations that time out and do nothing."""
    find_lost: int = 0
    describe_lost: int = 0
    bad_credential: bool = False
    """Everything answers 401."""
    blind_seconds: float = 0.0
    """A new machine is missing from ``find`` for so long."""

    def strikes(self, fault: str) -> bool:
        """Whether this call is hit; counts down."""
        left: int = vars(self)[fault]
        vars(self)[fault] = max(0, left - 1)
        return left > 0


@dataclass(kw_only=True)
class SimulatedMachine:
    """One machine, with its life in clock time."""

    id: str
    name: str
    offer: Offer
    command: list[str]
    env: dict[str, str]
    run_uri: str
    created_at: float
    runs_at: float
    """When it begins to run, and to cost."""
    deadline: float
    ended_at: float | None = None
    exit_code: int | None = None
    failed: bool = False
    message: str = ""
    gone_at: float | None = None
    """When it is (or will be) gone without a trace."""
    lines: list[str] = field(default_factory=list[str])

    def stopped(self, now: float) -> float | None:
        """When it ceased to run, and to cost; None while it lives."""
        ends = (self.ended_at, self.gone_at, self.deadline)
        return min((t for t in ends if t is not None and t <= now), default=None)

    def gone(self, now: float) -> bool:
        """Whether there is no such machine any more."""
        return self.gone_at is not None and self.gone_at <= now

    def seconds(self, now: float) -> float:
        """Seconds billed so far."""
        end = self.stopped(now)
        return max(0.0, (now if end is None else end) - self.runs_at)

    def bill(self, now: float) -> int:
        """Micro-dollars billed so far."""
        return seconds_cost(self.seconds(now), self.offer.price_per_hour)

    def info(self, now: float) -> MachineInfo:
        """What the cloud says of it."""
        stopped = self.stopped(now)
        state, message = self._state(now)
        return MachineInfo(
            name=self.name,
            state=state,
            id=self.id,
            created_at=self.created_at,
            started_at=self.runs_at if self.runs_at <= (now if stopped is None else stopped) else None,
            ended_at=stopped,
            exit_code=self.exit_code,
            price_per_hour=self.offer.price_per_hour,
            message=message,
        )

    def _state(self, now: float) -> tuple[Observed, str]:
        if self.gone(now):
            return Observed.GONE, ""
        if self.failed:
            return Observed.ERROR, self.message
        if self.stopped(now) is not None:
            return Observed.EXITED, "The deadline passed." if self.exit_code is None else "The command ended."
        if now >= self.runs_at:
            return Observed.RUNNING, ""
        halfway = (self.created_at + self.runs_at) / 2
        return (Observed.PROVISIONING if now >= halfway else Observed.REQUESTED), ""


class SimulatedCloud:
    """All machines ever made, and the levers by which a test moves them.

    Attributes:
        faults: what goes wrong.
        machines: every machine ever made, oldest first.
        launches: the names of all launches asked for, in order.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        capacity: int = 100,
        provisioning_seconds: float = 0.0,
        stop_seconds: float = 0.0,
        unique_names: bool = True,
        catalogue: Iterable[Offer] = CATALOGUE,
    ) -> None:
        """Make a cloud.

        Args:
            clock: tells the time; nothing here waits.
            capacity: machines that may live at once.
            provisioning_seconds: from acceptance to running; the first half says ``requested``.
            stop_seconds: from an accepted termination to its end; billed, as clouds do.
            unique_names: whether a second launch of a name adopts the first machine; otherwise it makes
                another one, as most clouds do.
            catalogue: what can be bought.
        """
        self.clock = clock
        self.faults = Faults()
        self.machines: list[SimulatedMachine] = []
        self.launches: list[str] = []
        self.unique_names = unique_names
        self.catalogue = {offer.id: offer for offer in catalogue}
        self._capacity = capacity
        self._provisioning = provisioning_seconds
        self._stop = stop_seconds

    def make(self, name: str, spec: LaunchSpec, offer: Offer) -> SimulatedMachine:
        """Make a machine. Raises ``NoCapacity`` when the cloud is full."""
        now = self.clock.now()
        if sum(machine.stopped(now) is None for machine in self.machines) >= self._capacity:
            raise NoCapacity("The simulated cloud is full.", fix="Give a machine back.")
        machine = SimulatedMachine(
            id=f"sim-{len(self.machines) + 1}",
            name=name,
            offer=offer,
            command=list(spec.command),
            env=dict(spec.env),
            run_uri=spec.run_uri,
            created_at=now,
            runs_at=now + self._provisioning,
            deadline=spec.deadline,
        )
        self.machines.append(machine)
        return machine

    def remove(self, machine: SimulatedMachine) -> None:
        """Terminate a machine; a living one needs ``stop_seconds`` to go."""
        now = self.clock.now()
        if machine.gone_at is None:
            machine.gone_at = now if machine.stopped(now) is not None else now + self._stop

    def present(self, name: str) -> list[SimulatedMachine]:
        """The machines of this name that are not gone, oldest first."""
        now = self.clock.now()
        return [machine for machine in self.machines if machine.name == name and not machine.gone(now)]

    def living(self, name: str) -> list[SimulatedMachine]:
        """The machines of this name that have not ended."""
        now = self.clock.now()
        return [machine for machine in self.present(name) if machine.stopped(now) is None]

    def exit(self, name: str, code: int = 0) -> None:
        """Let the command of a living machine end by itself."""
        for machine in self.living(name):
            machine.ended_at, machine.exit_code = self.clock.now(), code

    def break_down(self, name: str, message: str = "The host died.") -> None:
        """Let a living machine be reported as broken; it costs no more, but is still listed."""
        for machine in self.living(name):
            machine.ended_at, machine.failed, machine.message = self.clock.now(), True, message

    def take_away(self, name: str) -> None:
        """Let a living machine vanish without a word, as spot machines do."""
        for machine in self.living(name):
            machine.gone_at = self.clock.now()

    def write(self, name: str, *lines: str) -> None:
        """Append to a machine's log."""
        for machine in self.present(name):
            machine.lines.extend(lines)

    def machine_seconds(self) -> float:
        """Seconds of all machines that were billed until now."""
        return sum(machine.seconds(self.clock.now()) for machine in self.machines)
