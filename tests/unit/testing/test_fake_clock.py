import asyncio

from graftwork.testing.fake_clock import FakeClock


async def test_sleepers_wake_in_order_at_their_own_times():
    clock = FakeClock(start=100.0)
    woken = []

    async def sleeper(name, *waits):
        for wait in waits:
            await clock.sleep(wait)
            woken.append((name, clock.now()))

    async with asyncio.TaskGroup() as group:
        group.create_task(sleeper("slow", 5.0))
        group.create_task(sleeper("twice", 2.0, 2.0))
        await clock.advance(1.0)
        assert woken == [] and clock.sleeping == 2
        await clock.advance(10.0)
    assert woken == [("twice", 102.0), ("twice", 104.0), ("slow", 105.0)]
    assert clock.now() == 111.0 and clock.sleeping == 0


async def test_no_time_is_no_wait_and_a_jump_wakes_nobody():
    clock = FakeClock(start=100.0)
    await clock.sleep(0)
    waiting = asyncio.create_task(clock.sleep(1.0))
    await asyncio.sleep(0)
    clock.set(500.0)
    assert clock.now() == 500.0 and not waiting.done()
    await clock.advance(0.0)
    await waiting
    assert clock.now() == 500.0


async def test_a_cancelled_sleeper_is_forgotten():
    clock = FakeClock()
    waiting = asyncio.create_task(clock.sleep(1.0))
    await asyncio.sleep(0)
    waiting.cancel()
    await clock.advance(2.0)
    assert waiting.cancelled() and clock.sleeping == 0
