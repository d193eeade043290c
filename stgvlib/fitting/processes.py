"""One fit on several GPUs or machines: `torchrun ... -m stgvlib fit ...` gives each process its share of the GoPs.

GoPs are independent, so processes only meet before the first step and after the last one, through torchrun's key-value
store; finished GoPs lie in OUTPUT.parts, which all must see. torchrun is torch's own launcher: it ends all processes
when one fails, and restarts them (--max-restarts); a restarted fit goes on with what is finished.

No process waits inside a collective call: that hears no signal, and waits on when another process is gone.
"""

import json
import os
import signal
import sys
import threading
import time
from dataclasses import dataclass

import torch

from stgvlib.errors import StgvError

POLL = 0.2  # seconds between two looks for another process's message
SILENCE = 120  # seconds without a sign of life after which a process counts as lost


@dataclass(frozen=True)
class Share:
    """Process `rank` of `world`: it fits the GoPs g with g % world == rank."""

    rank: int
    world: int
    store: "torch.distributed.Store"
    local_rank: int = 0
    restarted: bool = False

    def agree(self, name: str, value):
        """What the first process has under a name, for all; JSON."""
        if self.rank == 0:
            self._say(name, value)
        return self._hear(name, 0)

    def wait(self) -> None:
        """The first process waits until all are here."""
        self._say(f"done {self.rank}", True)
        for rank in range(self.world if self.rank == 0 else 0):
            self._hear(f"done {rank}", rank)

    def tell(self, text: str) -> None:
        print(f"stgv: rank {self.rank}: {text}", file=sys.stderr, flush=True)

    def live(self) -> None:
        """Give signs of life until this process ends; end it when torchrun is gone, which would start others."""
        while threading.main_thread().is_alive():
            try:
                self.store.add(f"alive {self.rank}", 1)
            except RuntimeError:
                os.kill(os.getpid(), signal.SIGTERM)
                return
            threading.main_thread().join(2)

    def _say(self, name: str, value) -> None:
        self.store.set(name, json.dumps(value))

    def _hear(self, name: str, rank: int):
        """What a process says under a name. Raises StgvError where it is gone."""
        signs, silent = 0, 0.0  # counted in looks: a suspended job has not heard anything for long either
        lost = f"rank {rank} is gone: run the same command with --resume"
        try:
            while not self.store.check([name]):
                before, signs = signs, self.store.add(f"alive {rank}", 0)
                silent = silent + POLL if signs == before else 0.0
                if silent > SILENCE:
                    raise StgvError(lost)
                time.sleep(POLL)
            return json.loads(self.store.get(name))
        except RuntimeError as error:  # the store ended with its process
            raise StgvError(lost) from error


def join_torchrun() -> Share | None:
    """This process's share if torchrun started it, else None."""
    if int(os.environ.get("WORLD_SIZE", 1)) < 2:
        return None
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    restarts = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))
    # torchrun's store outlives a restart, with what was said before: each start has its own keys.
    ours = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    store = torch.distributed.TCPStore(
        os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=ours, wait_for_workers=False
    )
    store = torch.distributed.PrefixStore(f"stgv/{restarts}", store)
    share = Share(rank, world, store, int(os.environ.get("LOCAL_RANK", 0)), restarted=restarts > 0)
    threading.Thread(target=share.live).start()
    return share
