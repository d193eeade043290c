"""One fit on several GPUs or machines: `torchrun ... -m stgvlib fit ...` gives each process its share of the GoPs.

GoPs are independent, so processes only meet before the first step and after the last one, through gloo; finished GoPs
lie in OUTPUT.parts, which all must see. torchrun is torch's own launcher: it restarts processes (--max-restarts), and a
restarted fit goes on with what is finished.
"""

import os
import sys
from dataclasses import dataclass
from datetime import timedelta

import torch


@dataclass(frozen=True)
class Share:
    """Process `rank` of `world`: it fits the GoPs g with g % world == rank."""

    rank: int
    world: int
    local_rank: int = 0
    restarted: bool = False

    def wait(self) -> None:
        """Until all processes are here."""
        torch.distributed.barrier()

    def agree(self, value):
        """What the first process has, for all."""
        values = [value]
        torch.distributed.broadcast_object_list(values)
        return values[0]

    def tell(self, text: str) -> None:
        print(f"stgv: rank {self.rank}: {text}", file=sys.stderr, flush=True)


def join_torchrun() -> Share | None:
    """This process's share if torchrun started it, else None."""
    if int(os.environ.get("WORLD_SIZE", 1)) < 2:
        return None
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    restarts = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))
    # torchrun's store outlives a restart, with the addresses of processes that are gone: each start has its own keys.
    ours = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    store = torch.distributed.TCPStore(
        os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=ours, wait_for_workers=False
    )
    store = torch.distributed.PrefixStore(f"stgv/{restarts}", store)
    # A rank may fit for days while another waits for it.
    patience = timedelta(days=30)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=world, timeout=patience)
    return Share(rank, world, int(os.environ.get("LOCAL_RANK", 0)), restarted=restarts > 0)
