"""The bank keeps its budget, and nobody waits in vain."""

from __future__ import annotations

import asyncio
import gc
import random
import threading
from collections import defaultdict
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import numpy as np
import pytest
import torch

from persrep_ray.serving.engine.adapters import Adapter
from persrep_ray.serving.engine.answers import AdapterRef
from persrep_ray.serving.engine.bank import AdapterBank
from persrep_ray.serving.engine.errors import AdapterUnusableError, RegistryUnavailableError
from persrep_ray.serving.engine.metrics import Metrics
from persrep_ray.tasks.dense import DenseReference

ONE = 1000  # bytes of an adapter, unless it is said otherwise


def ref(number: int) -> AdapterRef:
    return AdapterRef(f"object-{number}", "v1")


def adapter(wanted: AdapterRef, nbytes: int = ONE) -> Adapter:
    """An adapter of `nbytes` bytes, spread over all its arrays."""
    rows, feature = np.zeros((2, 5), np.float32), np.zeros(5, np.float32)
    rest = nbytes - rows.nbytes * 2 - feature.nbytes
    a = torch.zeros(rest // 2, dtype=torch.uint8)
    b = torch.zeros(rest - rest // 2, dtype=torch.uint8)
    return Adapter(wanted, a, b, rows, DenseReference(feature, rows.copy()), None, 0.5, 1.0, 0.0)


class Storage:
    """A fake registry that records loads, and holds, fails or sizes chosen ones."""

    def __init__(self) -> None:
        self.loads: list[AdapterRef] = []
        self.errors: dict[AdapterRef, Exception] = {}
        self.sizes: dict[AdapterRef, int] = {}
        self.started: dict[AdapterRef, threading.Event] = defaultdict(threading.Event)
        self.gates: dict[AdapterRef, threading.Event] = {}

    def hold(self, wanted: AdapterRef) -> threading.Event:
        """Loads of `wanted` wait for the returned event."""
        self.gates[wanted] = threading.Event()
        return self.gates[wanted]

    def __call__(self, wanted: AdapterRef) -> Adapter:
        self.loads.append(wanted)
        self.started[wanted].set()
        if wanted in self.gates:
            assert self.gates[wanted].wait(10)
        if wanted in self.errors:
            raise self.errors[wanted]
        return adapter(wanted, self.sizes.get(wanted, ONE))

    async def has_started(self, wanted: AdapterRef) -> None:
        assert await asyncio.to_thread(self.started[wanted].wait, 10)


class Seen(Metrics):
    def __init__(self) -> None:
        self.lookups: list[bool] = []
        self.loads = 0

    def adapter_looked_up(self, *, hit: bool) -> None:
        self.lookups.append(hit)

    def adapter_loaded(self, seconds: float) -> None:
        self.loads += 1


@pytest.fixture
def storage() -> Storage:
    return Storage()


def bank_of(storage: Storage, **changes: Any) -> AdapterBank:
    options: dict[str, Any] = {"budget": 3 * ONE, "threads": 4, "timeout_s": 10.0, "metrics": Metrics(), **changes}
    return AdapterBank(storage, **options)


async def use(bank: AdapterBank, number: int) -> Adapter:
    async with bank.lease(ref(number)) as found:
        return found


async def waiting(bank: AdapterBank, number: int) -> asyncio.Task[Adapter]:
    """A query that waits for an adapter."""
    task = asyncio.create_task(use(bank, number))
    await asyncio.sleep(0)
    return task


def held(bank: AdapterBank, numbers: int = 10) -> list[int]:
    return [number for number in range(numbers) if ref(number) in bank]


def test_the_size_of_an_adapter_is_that_of_its_arrays() -> None:
    assert adapter(ref(0), 4321).nbytes == 4321


def test_an_adapter_is_loaded_once_and_then_found(storage: Storage) -> None:
    async def scenario() -> None:
        seen = Seen()
        bank = bank_of(storage, metrics=seen)
        first = await use(bank, 0)
        assert await use(bank, 0) is first
        assert storage.loads == [ref(0)]
        assert seen.lookups == [False, True] and seen.loads == 1
        assert len(bank) == 1 and bank.nbytes == ONE

    asyncio.run(scenario())


def test_the_least_recently_used_goes_first(storage: Storage) -> None:
    async def scenario() -> None:
        bank = bank_of(storage)
        for number in (0, 1, 2, 0, 3):  # 0 is used again: 1 is now the oldest
            await use(bank, number)
        assert held(bank) == [0, 2, 3] and bank.nbytes == 3 * ONE
        await use(bank, 4)
        assert held(bank) == [0, 3, 4]
        assert storage.loads == [ref(number) for number in (0, 1, 2, 3, 4)]

    asyncio.run(scenario())


def test_one_large_adapter_displaces_several(storage: Storage) -> None:
    async def scenario() -> None:
        storage.sizes[ref(3)] = 2 * ONE
        bank = bank_of(storage)
        for number in range(4):
            await use(bank, number)
        assert held(bank) == [2, 3] and bank.nbytes == 3 * ONE

    asyncio.run(scenario())


def test_what_is_in_use_is_never_dropped_and_the_budget_holds_again_afterwards(storage: Storage) -> None:
    async def scenario() -> None:
        bank = bank_of(storage)
        async with AsyncExitStack() as stack:
            for number in range(5):
                await stack.enter_async_context(bank.lease(ref(number)))
            assert held(bank) == [0, 1, 2, 3, 4] and bank.nbytes == 5 * ONE
            await use(bank, 5)
            assert held(bank) == [0, 1, 2, 3, 4]  # the only one that nobody uses went
        assert len(bank) == 3 and bank.nbytes == 3 * ONE
        assert len(storage.loads) == 6

    asyncio.run(scenario())


def test_two_users_of_one_adapter_both_have_to_go(storage: Storage) -> None:
    async def scenario() -> None:
        bank = bank_of(storage, budget=ONE)
        async with bank.lease(ref(0)):
            await use(bank, 0)  # comes and goes meanwhile
            await use(bank, 1)
            assert held(bank) == [0]
        assert held(bank) == [0]

    asyncio.run(scenario())


def test_an_adapter_larger_than_the_budget_is_used_and_dropped(storage: Storage) -> None:
    async def scenario() -> None:
        bank = bank_of(storage, budget=ONE // 2)
        async with bank.lease(ref(0)) as found:
            assert found.ref == ref(0) and held(bank) == [0]
        assert held(bank) == [] and bank.nbytes == 0

    asyncio.run(scenario())


def test_many_who_want_the_same_share_one_load(storage: Storage) -> None:
    async def scenario() -> None:
        gate, seen = storage.hold(ref(0)), Seen()
        bank = bank_of(storage, metrics=seen)
        tasks = [await waiting(bank, 0) for _ in range(50)]
        await storage.has_started(ref(0))
        gate.set()
        found = await asyncio.gather(*tasks)
        assert storage.loads == [ref(0)] and len({id(one) for one in found}) == 1
        assert seen.lookups == [False] * 50 and seen.loads == 1

    asyncio.run(scenario())


def test_a_slow_load_holds_up_nobody_else(storage: Storage) -> None:
    async def scenario() -> None:
        gate = storage.hold(ref(0))
        bank = bank_of(storage)
        slow = await waiting(bank, 0)
        await storage.has_started(ref(0))
        assert (await use(bank, 1)).ref == ref(1)
        assert (await use(bank, 1)).ref == ref(1)
        assert not slow.done()
        gate.set()
        assert (await slow).ref == ref(0)

    asyncio.run(scenario())


@pytest.mark.parametrize("error", [AdapterUnusableError("broken"), RegistryUnavailableError("gone"), OSError("odd")])
def test_a_failed_load_fails_those_who_wait_and_is_tried_again(storage: Storage, error: Exception) -> None:
    async def scenario() -> None:
        gate = storage.hold(ref(0))
        storage.errors[ref(0)] = error
        bank = bank_of(storage)
        tasks = [await waiting(bank, 0) for _ in range(3)]
        await use(bank, 1)
        gate.set()
        assert await asyncio.gather(*tasks, return_exceptions=True) == [error] * 3
        assert held(bank) == [1] and bank.nbytes == ONE

        del storage.errors[ref(0)]
        assert (await use(bank, 0)).ref == ref(0)
        assert storage.loads.count(ref(0)) == 2

    asyncio.run(scenario())


def test_who_goes_away_does_not_take_the_load_away_from_the_others(storage: Storage) -> None:
    async def scenario() -> None:
        gate = storage.hold(ref(0))
        bank = bank_of(storage)
        gone, stays = await waiting(bank, 0), await waiting(bank, 0)
        await storage.has_started(ref(0))
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        gate.set()
        assert (await stays).ref == ref(0)
        assert storage.loads == [ref(0)]

    asyncio.run(scenario())


def test_a_load_that_nobody_waits_for_any_more_is_kept_and_leaves_no_user_behind(storage: Storage) -> None:
    async def scenario() -> None:
        gate = storage.hold(ref(0))
        bank = bank_of(storage, budget=ONE)
        gone = await waiting(bank, 0)
        await storage.has_started(ref(0))
        gone.cancel()
        await asyncio.wait([gone])
        gate.set()
        assert (await use(bank, 0)).ref == ref(0)
        assert storage.loads == [ref(0)]
        await use(bank, 1)  # may displace it: nobody uses it
        assert held(bank) == [1]

    asyncio.run(scenario())


def test_a_failed_load_that_nobody_waits_for_is_no_complaint(storage: Storage) -> None:
    async def scenario() -> list[dict[str, Any]]:
        complaints: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: complaints.append(context))
        gate = storage.hold(ref(0))
        storage.errors[ref(0)] = AdapterUnusableError("broken")
        bank = bank_of(storage)
        gone = await waiting(bank, 0)
        await storage.has_started(ref(0))
        gone.cancel()
        await asyncio.wait([gone])
        gate.set()
        while len(asyncio.all_tasks()) > 1:
            await asyncio.sleep(0)
        gc.collect()  # asyncio complains when the task goes away
        assert held(bank) == []
        return complaints

    assert asyncio.run(scenario()) == []


def test_a_load_that_takes_too_long_is_an_error_and_counts_when_it_comes(storage: Storage) -> None:
    async def scenario() -> None:
        gate = storage.hold(ref(0))
        bank = bank_of(storage, timeout_s=0.05)
        with pytest.raises(RegistryUnavailableError, match="object object-0, version v1: the registry is too slow"):
            await use(bank, 0)
        with pytest.raises(RegistryUnavailableError):  # joins the same load
            await use(bank, 0)
        gate.set()
        while ref(0) not in bank:
            await asyncio.sleep(0)
        assert (await use(bank, 0)).ref == ref(0)
        assert storage.loads == [ref(0)]

    asyncio.run(scenario())


def test_versions_of_one_object_are_different_adapters(storage: Storage) -> None:
    async def scenario() -> None:
        bank = bank_of(storage)
        for version in ("v1", "v2"):
            async with bank.lease(AdapterRef("mug", version)) as found:
                assert found.ref.version == version
        assert len(bank) == 2

    asyncio.run(scenario())


def test_errors_and_cancellations_of_the_user_give_the_adapter_back(storage: Storage) -> None:
    async def scenario() -> None:
        bank = bank_of(storage, budget=ONE)
        with pytest.raises(KeyError):
            async with bank.lease(ref(0)):
                raise KeyError

        async def hold_on() -> None:
            async with bank.lease(ref(0)):
                await asyncio.Event().wait()

        holder = asyncio.create_task(hold_on())
        await asyncio.sleep(0)
        await use(bank, 1)
        assert held(bank) == [0]
        holder.cancel()
        await asyncio.wait([holder])
        await use(bank, 1)
        assert held(bank) == [1]

    asyncio.run(scenario())


def test_under_any_mix_of_queries_the_budget_and_the_accounts_are_right(storage: Storage) -> None:
    generator = random.Random(0)
    for number in range(12):
        storage.sizes[ref(number)] = generator.randrange(ONE // 2, 2 * ONE)
    storage.errors[ref(7)] = AdapterUnusableError("broken")

    def in_memory(bank: AdapterBank) -> int:
        return sum(storage.sizes[ref(number)] for number in held(bank, 12))

    async def client(bank: AdapterBank, seed: int, check: Callable[[], None]) -> None:
        chosen = random.Random(seed)
        for _ in range(15):
            number = chosen.randrange(12)
            try:
                async with bank.lease(ref(number)) as found:
                    for _ in range(chosen.randrange(4)):
                        await asyncio.sleep(0)
                        assert ref(number) in bank and found.ref == ref(number)
                    check()
            except AdapterUnusableError:
                assert number == 7

    async def scenario() -> None:
        bank = bank_of(storage, budget=4 * ONE)

        def check() -> None:
            assert bank.nbytes == in_memory(bank)

        clients = [asyncio.create_task(client(bank, seed, check)) for seed in range(20)]
        for number in (3, 11):
            clients[number].cancel()
        results = await asyncio.gather(*clients, return_exceptions=True)
        assert [type(one) for one in results if one] == [asyncio.CancelledError] * 2
        assert bank.nbytes == in_memory(bank) <= 4 * ONE

    asyncio.run(scenario())
