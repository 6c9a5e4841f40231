"""Law 3 at the call of a provider: one name, at most one machine, whatever the provider answers.

The caller has written the intent (name, price, deadline) before it comes here. An unclear answer is
*unknown*, never *failed*: we look up by name, adopt what is there, and destroy what is there twice.
"""

from __future__ import annotations

from graftwork.compute.port import LaunchSpec, MachineInfo, Offer, Provider, Unknown


async def find_one(provider: Provider, name: str) -> MachineInfo | None:
    """The machine ``name``, or None; of several the oldest is kept, and the rest is terminated.

    Raises:
        Unknown: the provider did not answer.
    """
    same = [machine for machine in await provider.find(name) if machine.name == name]
    for surplus in same[1:]:
        await provider.terminate(name, machine_id=surplus.id)
    return same[0] if same else None


async def launch_once(provider: Provider, name: str, spec: LaunchSpec, offer: Offer) -> MachineInfo:
    """Adopt the machine ``name`` or make it; safe to call again after a crash at any point.

    Raises:
        NoCapacity, StaleOffer, BadRequest, Money, Credential: as ``Provider.launch``; no machine.
        Unknown: still unclear after a look-up. The intent stays; call again later with the same name.
    """
    existing = await find_one(provider, name)
    if existing is not None:
        return existing
    try:
        return await provider.launch(name, spec, offer)
    except Unknown:
        adopted = await find_one(provider, name)
        if adopted is None:
            raise
        return adopted
