"""`nextclick bench …`: benchmarks with a reference in the same run, on this machine."""

from __future__ import annotations

import contextlib
import itertools
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from nextclick.bench.options import check_folder, parse_choices, parse_sizes, write_json
from nextclick.shared.errors import ConfigurationError

app = typer.Typer(no_args_is_help=True, help="Benchmarks: ratios and budgets, within one run.")
console = Console(soft_wrap=True, width=max(124, Console().width))
"""Wide enough for the widest table, so that no number is cut."""


@app.command()
def scorer(
    catalogue: Annotated[
        str, typer.Option(help="Catalogue sizes, separated by commas, such as 10k or 1M.")
    ] = "50,10k,100k",
    batches: Annotated[str, typer.Option(help="Clicks per micro-batch.")] = "1,32,256",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, mps.")] = "auto",
    threads: Annotated[int, typer.Option(help="CPU threads, as the worker's.", min=1)] = 1,
    rounds: Annotated[int, typer.Option(help="Rounds; each times every contestant.", min=1)] = 5,
    json: Annotated[Path | None, typer.Option(help="Write the numbers here.")] = None,
) -> None:
    """From history to top 10: the served scorer, two slower ones, and the limit of the machine.

    Example: nextclick bench scorer --catalogue 50,10k --json scorer.json
    """
    items, clicks = parse_sizes("--catalogue", catalogue), parse_sizes("--batches", batches)
    check_folder(json)

    import torch

    from nextclick.bench.scorer import measure
    from nextclick.shared.model import select_device

    torch.set_num_threads(threads)
    chosen = select_device(device)
    table = Table(
        *("items", "batch", "clicks/s", "ms", "limit", "ratio", "read", "limit"),
        *("tower", "pairs", "exact", "recall", "MB", "profiles, µs"),
    )
    for column in table.columns:
        column.justify = "right"
    rows = []
    for size in items:
        for batch in clicks:
            with console.status(f"{size:,} items, batch {batch}"):
                row = measure(size, batch, chosen, rounds)
            rows.append(row)
            table.add_row(
                f"{row.items:,}",
                str(row.batch),
                f"{row.clicks_per_second:,.0f}",
                f"{row.served_ms:.2f}",
                f"{row.limit_ms:.2f}",
                f"{row.limit_ratio:.1f}×",
                f"{row.encode_ms:.2f}",
                f"{row.encode_limit_ms:.2f}",
                f"{row.tower_ratio:,.0f}×",
                f"{row.per_candidate_ratio:,.0f}×",
                f"{row.exact_ratio:.1f}×",
                f"{row.recall:.3f}",
                f"{row.megabytes:,.0f}",
                ", ".join(f"{us:,.0f}" for us in row.profile_us.values()),
            )
    console.print(table)
    console.print(
        "ms: time per micro-batch; read: the part of it for encoding the histories. limit: the "
        "same work at the speed of a plain matrix product and copy; ratio: time / limit, in the "
        "same round. tower, pairs: how many times longer the source's network takes with its tower "
        "on every item, and with one pass per pair. exact: the same for the scorer without its "
        "shortlist; recall: share of the exact best 20 that the shortlist finds. "
        "profiles: time per click with none, one and three profiles beside the plain lists."
    )
    if json is not None:
        write_json(json, rows, chosen)


@app.command()
def latency(
    rate: Annotated[
        str, typer.Option(help="Clicks per second, separated by commas.")
    ] = "5,200,1000,3000",
    catalogue: Annotated[str, typer.Option(help="Number of items.")] = "10k",
    guarantee: Annotated[
        str, typer.Option(help="at_least_once, exactly_once, or both with a comma.")
    ] = "at_least_once,exactly_once",
    swap: Annotated[
        str, typer.Option(help="Runs with a retrain and a model swap: no, yes, or both.")
    ] = "both",
    profiles: Annotated[
        str, typer.Option(help="Lists under so many profiles beside the plain ones: 0, 1, 3.")
    ] = "0",
    experiment: Annotated[
        str, typer.Option(help="Runs with a second model for half of the users: no, yes, or both.")
    ] = "no",
    deltas: Annotated[
        str, typer.Option(help="Runs with a delta of the model each second: no, yes, or both.")
    ] = "no",
    seconds: Annotated[
        float, typer.Option(help="Length of a run; longer if it had fewer than 100 clicks.", min=3)
    ] = 12,
    json: Annotated[Path | None, typer.Option(help="Write the numbers here.")] = None,
) -> None:
    """Latency from click to recommendation with one worker, compared with a plain echo.

    Example: nextclick bench latency --rate 1000 --guarantee at_least_once --json latency.json
    """
    rates, items = parse_sizes("--rate", rate), parse_sizes("--catalogue", catalogue)
    with_swap = _no_yes_both("--swap", swap)
    with_experiment = _no_yes_both("--experiment", experiment)
    with_deltas = _no_yes_both("--deltas", deltas)
    if sum(map(all, (with_swap, with_experiment, with_deltas))) > 1:
        raise ConfigurationError(
            "--swap, --experiment, --deltas: only one of them can be yes, which excludes the others"
        )
    counts = sorted({int(n) for n in parse_choices("--profiles", profiles, ("0", "1", "2", "3"))})
    check_folder(json)

    import torch

    from nextclick.bench.latency import (
        GUARANTEES,
        LatencyTable,
        measure,
        measure_floor,
        warm_transactions,
    )
    from nextclick.bench.round_trip import warm_servers

    guarantees = parse_choices("--guarantee", guarantee, GUARANTEES)
    rows, floors, table = [], [], LatencyTable()
    with contextlib.ExitStack() as stack:
        with console.status("warming the broker"):
            servers = stack.enter_context(warm_servers())
            if "exactly_once" in guarantees:
                warm_transactions(servers)
        for clicks in rates:
            with console.status(f"{clicks:,} clicks/s, echo"):
                floor = measure_floor(servers, clicks, seconds)
            floors.append(floor)
            table.add_floor(floor)
            runs = itertools.product(
                items, guarantees, counts, with_swap, with_experiment, with_deltas
            )
            for size, kind, count, swapped, tried, learning in runs:
                if swapped + tried + learning > 1:  # see `measure`
                    continue
                what = f"{clicks:,} clicks/s, {size:,} items, {kind}, profiles: {count}"
                with console.status(
                    f"{what}, swap: {swapped}, experiment: {tried}, deltas: {learning}"
                ):
                    row = measure(
                        servers,
                        floor,
                        seconds,
                        items=size,
                        guarantee=kind,
                        swap=swapped,
                        profiles=count,
                        experiment=tried,
                        deltas=learning,
                    )
                rows.append(row)
                table.add(row)
    table.show(console, servers)
    if json is not None:
        echo = [asdict(floor) for floor in floors]
        write_json(json, rows, torch.device("cpu"), **servers.facts, echo=echo)


def _no_yes_both(option: str, given: str) -> tuple[bool, ...]:
    """Whether runs are without, with, or both; raises ConfigurationError for another word."""
    (chosen,) = parse_choices(option, given, ("no", "yes", "both"))[:1]
    return {"no": (False,), "yes": (True,), "both": (False, True)}[chosen]


@app.command()
def worker(
    catalogue: Annotated[
        str, typer.Option(help="Catalogue sizes, separated by commas.")
    ] = "50,10k",
    clicks: Annotated[int, typer.Option(help="Clicks on the topic.", min=1000)] = 20_000,
    rounds: Annotated[int, typer.Option(help="Times that the topic is answered.", min=1)] = 3,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, mps.")] = "auto",
    json: Annotated[Path | None, typer.Option(help="Write the numbers here.")] = None,
) -> None:
    """Throughput of one worker on a filled topic, the cost of each step, and the possible rate.

    Example: nextclick bench worker --catalogue 10k
    """
    items = parse_sizes("--catalogue", catalogue)
    check_folder(json)

    import torch

    from nextclick.bench.round_trip import warm_servers
    from nextclick.bench.worker import STAGES, measure
    from nextclick.shared.model import select_device

    torch.set_num_threads(1)  # as the worker does by default
    chosen = select_device(device)
    with console.status("warming the broker"), warm_servers() as servers:
        rows = [measure(servers, size, clicks, rounds, chosen) for size in items]
    table = Table("", *(f"{row.items:,} items" for row in rows))
    for column in table.columns[1:]:
        column.justify = "right"
    table.add_row("published/s", *(f"{row.published_per_second:,.0f}" for row in rows))
    table.add_row("clicks/s", *(f"{row.clicks_per_second:,.0f}" for row in rows))
    table.add_row("exactly once", *(f"{row.exactly_once_per_second:,.0f}" for row in rows))
    table.add_row("of possible", *(f"{row.share_of_possible:.0%}" for row in rows))
    table.add_row("floor", *(f"{row.floor_us:.0f}" for row in rows))
    table.add_row("scorer", *(f"{row.scorer_us:.0f}" for row in rows), end_section=True)
    for stage in STAGES:
        table.add_row(stage, *(f"{row.stage_us[stage]:.0f}" for row in rows))
    table.add_row("queue, exactly once", *(f"{row.queue_us:.0f}" for row in rows))
    console.print(table)
    console.print(
        "published: by the simulator. From floor on: µs per click. possible: 1 / (floor + scorer), "
        "where floor is the same loop with a scorer that costs nothing, and scorer is the scorer "
        "alone. Below are the worker's steps."
    )
    if json is not None:
        write_json(json, rows, chosen, **servers.facts)


@app.command()
def collector(
    clicks: Annotated[str, typer.Option(help="Clicks on the topic.")] = "500k",
    rounds: Annotated[int, typer.Option(help="Times that the topic is read.", min=1)] = 3,
    json: Annotated[Path | None, typer.Option(help="Write the numbers here.")] = None,
) -> None:
    """Throughput of one collector on a filled topic, beside a consumer that does nothing else.

    Example: nextclick bench collector --clicks 500k
    """
    (wanted,) = parse_sizes("--clicks", clicks)[:1]
    check_folder(json)

    from nextclick.bench.collector import measure
    from nextclick.bench.round_trip import warm_servers

    with console.status("warming the broker"), warm_servers() as servers:
        row = measure(servers, wanted, rounds)
    table = Table("", "clicks/s", "a second of CPU", "of plain", "of its CPU")
    for column in table.columns[1:]:
        column.justify = "right"
    plain, ours = row.plain, row.collector
    table.add_row("plain", f"{plain.per_second:,.0f}", f"{plain.per_cpu_second:,.0f}", "", "")
    table.add_row(
        "collector",
        f"{ours.per_second:,.0f}",
        f"{ours.per_cpu_second:,.0f}",
        f"{row.ratio:.2f}",
        f"{row.cpu_ratio:.2f}",
    )
    console.print(table)
    console.print(
        f"{row.clicks:,} clicks; the collector's {row.files} files hold {row.bytes_per_click:.0f} "
        "bytes a click. plain: a consumer that polls and does nothing else. CPU: of all threads of "
        "the process, without the broker's."
    )
    if json is not None:
        write_json(json, [row], None)


@app.command()
def learning(
    clicks: Annotated[str, typer.Option(help="Clicks that the base is fitted on.")] = "20k",
    epochs: Annotated[int, typer.Option(help="Most epochs of its fit.", min=1)] = 6,
    probes: Annotated[int, typer.Option(help="New items to wait for; 0: no servers.", min=0)] = 30,
    seed: Annotated[int, typer.Option(help="Of shops and fit.")] = 0,
    json: Annotated[Path | None, typer.Option(help="Write the numbers here.")] = None,
) -> None:
    """What is learned between retrainings: after a shock, under attack, how soon, at what cost.

    Example: nextclick bench learning --probes 100
    """
    (wanted,) = parse_sizes("--clicks", clicks)[:1]
    check_folder(json)

    from nextclick.bench.learning import base_of_shop, measure, measure_delay
    from nextclick.bench.round_trip import warm_servers

    with console.status("fitting the base"):
        base = base_of_shop(wanted, epochs, seed)
    with console.status("changing the shop"):
        found = measure(base, wanted, seed)
    delays: list[float] = []
    if probes:
        with console.status("waiting for new items"), warm_servers() as servers:
            delays = measure_delay(servers, base, probes)
    table = Table(
        *("shop", "clicks learned from", "HR@10", "NDCG@10", "HR@10 of the base"),
        *("ECE", "noise", "ECE of the base", "s"),
    )
    for row in found.recovery:
        shares = (f"{x:.3f}" for x in (row.hr_at_10, row.ndcg_at_10, row.base_hr_at_10))
        errors = (f"{x:.3f}" for x in (row.ece, row.ece_noise, row.base_ece))
        table.add_row(row.shop, f"{row.clicks:,}", *shares, *errors, f"{row.learn_seconds:.2f}")
    console.print(table)
    console.print(
        "HR@10 and NDCG@10: shares of the ceiling's, on clicks that were not learned from; "
        "ECE: calibration error of first items there"
    )
    for attack in found.attacks:
        console.print(
            f"{attack.name}: HR@1 of honest users {attack.honest:.4f} → {attack.attacked:.4f}"
        )
    cost = found.cost
    console.print(
        f"a click, in batches of 256: {cost.base_us:.1f} µs without a delta, {cost.delta_us:.1f} "
        f"with one; a delta serves after {cost.apply_seconds:.3f} s"
    )
    if delays:
        middle, late = (sorted(delays)[int(q * (len(delays) - 1))] for q in (0.5, 0.99))
        console.print(
            f"from the 20th click on a new item until another shopper has it in the list: "
            f"median {middle:.1f} s, p99 {late:.1f} s, of {len(delays)}"
        )
    if json is not None:
        write_json(json, [*found.recovery, *found.attacks, cost], None, delays=delays)


@app.command()
def scale(
    users: Annotated[str, typer.Option(help="Sessions in Redis, separated by commas.")] = (
        "10k,100k,1M"
    ),
    workers: Annotated[str, typer.Option(help="Worker processes, separated by commas.")] = "1,2",
    clicks: Annotated[str, typer.Option(help="Clicks on the topic for the workers.")] = "40k",
    json: Annotated[Path | None, typer.Option(help="Write the numbers here.")] = None,
    png: Annotated[Path | None, typer.Option(help="Draw the plots here.")] = None,
) -> None:
    """Memory and speed of Redis by number of users, and throughput by number of workers.

    Example: nextclick bench scale --users 10k,100k --png scale.png
    """
    sessions, counts = parse_sizes("--users", users), parse_sizes("--workers", workers)
    (answered,) = parse_sizes("--clicks", clicks)[:1]
    check_folder(json)
    check_folder(png, "--png")

    import torch

    from nextclick.bench.round_trip import warm_servers
    from nextclick.bench.scale import measure_users, measure_workers, plot

    of_users, of_workers = [], []
    for size in sessions:
        with console.status(f"{size:,} users"):
            of_users.append(measure_users(size))
    with console.status("workers"), warm_servers() as servers:
        for count in counts:
            of_workers.append(measure_workers(servers, count, answered))
    table = Table("users", "bytes per session", "appends/s")
    for row in of_users:
        table.add_row(
            f"{row.users:,}", f"{row.bytes_per_session:.0f}", f"{row.appends_per_second:,.0f}"
        )
    console.print(table)
    table = Table("workers", "clicks/s")
    for line in of_workers:
        table.add_row(f"{line.workers}", f"{line.clicks_per_second:,.0f}")
    console.print(table)
    console.print(
        f"Sessions have {of_users[0].clicks_per_user} clicks; workers share this machine."
    )
    if json is not None:
        write_json(json, [*of_users, *of_workers], torch.device("cpu"), **servers.facts)
    if png is not None:
        plot(of_users, of_workers, png)


@app.command()
def train(
    clicks: Annotated[
        str, typer.Option(help="Clicks to fit on, before and after the shop changes.")
    ] = "60k",
    logged: Annotated[str, typer.Option(help="Clicks of the log to read.")] = "1M",
    epochs: Annotated[int, typer.Option(help="Most epochs of a fit; 0 = no limit.", min=0)] = 0,
    threads: Annotated[int, typer.Option(help="CPU threads of a fit.", min=1)] = 1,
    json: Annotated[Path | None, typer.Option(help="Write the numbers here.")] = None,
) -> None:
    """Time of fits from scratch and from a champion, and of turning a log into windows.

    Example: nextclick bench train --clicks 20k
    """
    (fitted,), (read,) = parse_sizes("--clicks", clicks)[:1], parse_sizes("--logged", logged)[:1]
    check_folder(json)

    import torch

    from nextclick.bench.train import measure

    torch.set_num_threads(threads)
    with console.status(f"{fitted:,} clicks, twice"):
        rows = measure(fitted, read, epochs)
    table = Table("", "clicks", "clicks/s", "s", "epochs", "NDCG", "s to quality")
    for row in rows:
        of_fit = (f"{row.epochs}", f"{row.ndcg:.4f}", f"{row.seconds_to_quality:.1f}")
        table.add_row(
            row.what,
            f"{row.clicks:,}",
            f"{row.per_second:,.0f}",
            f"{row.seconds:.1f}",
            *(of_fit if row.epochs else ("", "", "")),
        )
    console.print(table)
    console.print(
        "clicks/s: for a fit, predicted clicks in all epochs. Quality: 99 % of the best validation "
        "NDCG; a champion may reach it before the first step."
    )
    if json is not None:
        write_json(json, rows, torch.device("cpu"))


@app.command()
def peers(
    catalogue: Annotated[
        str, typer.Option(help="Catalogue sizes, separated by commas.")
    ] = "50,10k",
    clicks: Annotated[int, typer.Option(help="Clicks on the topic.", min=1000)] = 10_000,
    rounds: Annotated[int, typer.Option(help="Rounds; each times every contestant.", min=1)] = 3,
    seconds: Annotated[float, typer.Option(help="Length of a latency run.", min=1)] = 12,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, mps.")] = "auto",
    python: Annotated[
        Path | None,
        typer.Option(help="Interpreter of an environment with nextclick\\[peers]."),
    ] = None,
    json: Annotated[Path | None, typer.Option(help="Write the numbers here.")] = None,
) -> None:
    """Our worker compared with one written with Quix Streams, on the same clicks.

    Throughput on a filled topic, and latency at 200 and 1,000 clicks/s.

    Example: nextclick bench peers --python build/peers/bin/python
    """
    items = parse_sizes("--catalogue", catalogue)
    check_folder(json)

    from nextclick.bench.peers import interpreter, report
    from nextclick.bench.peers.measure import measure
    from nextclick.bench.round_trip import warm_servers
    from nextclick.shared.model import select_device

    chosen = select_device(device)
    peer = interpreter.find(python)
    with console.status("warming the broker") as status, warm_servers() as servers:
        rows = []
        for size in items:
            status.update(f"{size:,} items")
            rows.append(measure(servers, size, clicks, rounds, peer, device, seconds))
    report.show(rows, servers, console)
    if json is not None:
        write_json(json, rows, chosen, **servers.facts)
