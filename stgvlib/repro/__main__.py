"""`python -m stgvlib.repro`: run the notebooks, list what has no record, run it, and fill the documents."""

import json
import sys
from collections import defaultdict
from typing import Annotated, Literal

try:
    import tyro

    from stgvlib.errors import StgvError
    from stgvlib.signals import prepare
    from stgvlib.signals import status as exit_status
except KeyboardInterrupt:  # in the first second
    print("interrupted", file=sys.stderr)
    sys.exit(130)

ProfileName = Literal["smoke", "quick", "paper"]
Names = tyro.conf.Positional[tuple[str, ...]]
Device = Annotated[str, tyro.conf.arg(help="auto, cpu, cuda or cuda:K")]


def notebooks(
    profile: ProfileName = "smoke", device: Device = "auto", only: str = "", refresh: bool = False, make: bool = True
) -> int | None:
    """Execute the notebooks, which make every table and figure. `./run_all.sh` calls this.

    Args:
        profile: smoke takes minutes on a CPU, quick about an hour; paper needs a CUDA GPU.
        only: Numbers of the notebooks, such as 01,02; empty: all.
        refresh: Repeat runs that have a record.
        make: With --no-make, records of the paper profile are only read.
    """
    from stgvlib.repro import notebooks

    return notebooks.execute_all(profile, device, only, refresh, make)


def missing(profile: ProfileName = "paper", json_output: Annotated[bool, tyro.conf.arg(name="json")] = False) -> None:
    """List what has no valid record, why, and what it is expected to cost.

    Args:
        profile: Whose records.
        json_output: Print one JSON list.
    """
    from dataclasses import asdict

    from stgvlib.repro import work

    found = work.missing(profile)
    if json_output:
        print(json.dumps([asdict(m) for m in found]))
        return
    for m in found:
        print(f"{m.name:55} {'unknown' if m.seconds is None else f'{m.seconds:.0f} s':>8}  {m.reason}")
    known = [m.seconds for m in found if m.seconds]
    print(
        f"{len(found)} without a valid record; {len(known)} of them take about {sum(known) / 60:.0f} minutes on a GPU"
    )


def run(
    names: Names = (),
    profile: ProfileName = "paper",
    workers: int | None = None,
    scheduler: str = "",
    device: Device = "auto",
    refresh: bool = False,
) -> int:
    """Make the records that are missing, or those that are named.

    Examples: `run --profile paper --workers 2`; `run bunny/siren davis/cows/paper --refresh`.

    Args:
        names: Experiments as `missing` prints them; none: all that is missing.
        profile: Whose records.
        workers: Processes, one a GPU; unset: as many as there are GPUs.
        scheduler: Address of a dask scheduler whose workers to use, such as tcp://host:8786.
        refresh: Make records again that are valid.
    """
    from stgvlib.repro import work

    failed = work.run_missing(names or None, profile, device, workers, scheduler, refresh)
    if failed:
        print(f"without a record: {', '.join(failed)}", file=sys.stderr)
    return bool(failed)


def status(profile: ProfileName = "paper") -> None:
    """Say how many records are current, which were made by other code than today's, and which are damaged.

    Args:
        profile: Whose records.
    """
    from stgvlib.repro import work

    records = list(work.records(profile))
    made, old = [record for record in records if record], defaultdict(list)
    for record in made:
        if record.outdated:
            dirty = ", with changes" if record.data.get("dirty") else ""
            old[f"{record['commit']} ({record['date'][:10]}, {record['device']}{dirty})"].append(record.name)
    for code, names in sorted(old.items(), key=lambda pair: -len(pair[1])):
        print(f"made by {code}: {len(names)}\n    {', '.join(names)}")
    for record in records:
        if not record and record.path.exists():
            print(f"not valid: {record.name}: {record.reason}")
    outdated, unsigned = sum(map(len, old.values())), sum("checksum" not in record.data for record in made)
    print(f"{len(made)} valid records: {len(made) - outdated} of today's code, {outdated} of other code")
    if unsigned:
        print(f"{unsigned} of them are older than checksums: numbers changed by hand are not noticed there")


def report(profile: ProfileName = "smoke") -> None:
    """Show runs of your own (results/<profile>/runs/mine) beside the systems on the same frames.

    Args:
        profile: Whose records.
    """
    from stgvlib.repro import tables

    print(tables.report(profile).to_string(index=False))


def figures(profile: ProfileName = "paper") -> None:
    """Draw every figure again from the records as they are; the notebooks also ask whether these are still valid.

    Args:
        profile: Whose records.
    """
    from stgvlib.repro.redraw import draw_all

    print(*(path.name for path in draw_all(profile)), sep="\n")


def film(coarse_steps: int = 300, steps: int = 1_500, device: Device = "auto") -> None:
    """Make the README's moving picture, docs/bunny.gif: ten minutes on a CPU.

    Args:
        coarse_steps: Of the first frame of each group, both presets.
        steps: Of deformation, of each group.
    """
    from stgvlib.device import resolve_device
    from stgvlib.repro.film import film

    print(*film(coarse_steps, steps, resolve_device(device)), sep="\n")


def documents(check: bool = False) -> int | None:
    """Fill the tables and numbers of README.md and docs/ from records.

    Args:
        check: Change nothing; exit with 1 where a document differs.
    """
    from stgvlib.repro import documents

    return documents.main(check)


def main(arguments: list[str] | None = None) -> None:
    commands = {f.__name__: f for f in (notebooks, missing, run, status, report, figures, film, documents)}
    try:
        code = tyro.extras.subcommand_cli_from_dict(
            commands, prog="python -m stgvlib.repro", description=__doc__, args=arguments
        )
    except StgvError as error:
        print(f"stgvlib.repro: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt as stop:
        print("interrupted; finished records are kept: run the same command to go on", file=sys.stderr)
        sys.exit(exit_status(stop))
    sys.exit(code or 0)


if __name__ == "__main__":
    prepare()
    main()
