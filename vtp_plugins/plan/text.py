"""A plan as text."""

from __future__ import annotations

from vtp_core.cli.output import table
from vtp_core.view import size_text
from vtp_plugins.plan.memory import GIB, group_activations
from vtp_plugins.plan.plan import Plan
from vtp_plugins.plan.sizes import show
from vtp_plugins.plan.work import Work


def render(plan: Plan) -> str:
    """The plan in sections, warnings last."""
    sections = [
        f"{plan.name}, {plan.world_size} rank{'s' if plan.world_size > 1 else ''}",
        _section("Rows a step", _rows(plan)),
        *(_group(plan, index) for index in range(len(plan.groups))),
        _section("Parameters", _owners(plan)),
        _section("Optimiser", _rules(plan)),
    ]
    if plan.sizes.teachers:
        sections.append(_section("EMA copies", _teachers(plan)))
    if plan.sizes.frozen:
        sections.append(_section("Frozen networks (built uninitialised)", _frozen(plan)))
    sections += [_section("Compute", _compute(plan)), _section("Memory per rank, estimated", _memory(plan))]
    sections.append(_section("What fits: the same step in chunks of rows", _fits(plan)))
    sections += [f"note: {note}" for note in plan.notes]
    sections += [f"warning: {warning}" for warning in plan.warnings]
    return "\n\n".join(sections)


def _section(title: str, rows: list[tuple[str, ...]]) -> str:
    return "\n".join([title, *(f"  {line}" for line in table(rows).splitlines())])


def _rows(plan: Plan) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [("view", "global", "per rank", "objectives (rows per rank)")]
    for view, count in plan.view_rows.items():
        users = [f"{name} {views[view]}" for name, views in plan.objective_rows.items() if view in views]
        rows.append((view, f"{count}", f"{count // plan.world_size}", ", ".join(users)))
    return rows


def _group(plan: Plan, index: int) -> str:
    works = [work for work in plan.works if work.group == index]
    rows: list[tuple[str, ...]] = [("forward", "rows per rank", "GFLOP, all ranks", "run by", "shared with")]
    for work in works:
        count = f"{work.rows}" + (f" in {work.chunks} chunks" if work.chunks > 1 else "")
        gflop = f"{work.flops * plan.world_size / 1e9:,.2f}"
        rows.append((_name(work), count, gflop, work.objectives[0], ", ".join(work.objectives[1:])))
    title = f"Group {index + 1}: {', '.join(plan.groups[index].objectives)}"
    return _section(f"{title} (activations {_gib(group_activations(works))} per rank)", rows)


def _name(work: Work) -> str:
    if not work.role:
        return f"{work.verb} of {work.objectives[0]}"
    what = f"{work.role} {work.verb} {work.view or work.module}"
    crops = ", ".join(f"{count} x {name} {size_text(size)} px" for name, (count, size) in work.crops.items())
    return what + (" masked" if work.masked else "") + (f" ({crops})" if crops else "")


def _owners(plan: Plan) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [("owner", "parameters", "trainable", "may be sharded")]
    rows += [
        (owner.name, f"{owner.parameters:,}", f"{owner.trainable:,}", f"{owner.sharded:,}")
        for owner in plan.sizes.owners
    ]
    owners = plan.sizes.owners
    whole, trainable = sum(owner.parameters for owner in owners), sum(owner.trainable for owner in owners)
    return [*rows, ("total", f"{whole:,}", f"{trainable:,}", f"{sum(owner.sharded for owner in owners):,}")]


def _rules(plan: Plan) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [
        ("owner", "pattern", "parameters", "method", "lr", "decay", "frozen", "clamp")
    ]
    alike: dict[tuple[str, ...], tuple[list[str], int]] = {}
    for rule in plan.sizes.rules:
        clamp = "" if rule.clamp is None else f"{rule.clamp[0]:.4g} .. {rule.clamp[1]:.4g}"
        frozen = "frozen" if rule.frozen else ""
        key = (rule.owner, rule.method, show(rule.lr), f"{rule.decay:g}", frozen, clamp)
        patterns, elements = alike.get(key, ([], 0))
        alike[key] = [*patterns, rule.pattern], elements + rule.elements
    for (owner, *treatment), (patterns, elements) in alike.items():
        few = patterns if len(patterns) <= 4 else [*patterns[:2], "...", patterns[-1]]
        rows.append((owner, ", ".join(few), f"{elements:,}", *treatment))
    return rows


def _teachers(plan: Plan) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [("student", "parameters", "momentum at the first and last step")]
    return rows + [
        (each.name, f"{each.parameters:,}", f"{each.first:.6g}, {each.last:.6g}")
        for each in plan.sizes.teachers
    ]


def _frozen(plan: Plan) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [("network", "parameters")]
    return rows + [(network.name, f"{network.parameters:,}") for network in plan.sizes.frozen]


def _compute(plan: Plan) -> list[tuple[str, ...]]:
    layers = "linear and convolution layers"
    rows: list[tuple[str, ...]] = [
        ("flops", f"{_tera(plan.flops)} TFLOP", "one step over all ranks, attention included"),
        (
            "flops_forward_training",
            f"{plan.flops_forward_training:.3g} FLOP",
            f"{layers} of all forwards of the run, without frozen helpers and critics",
        ),
    ]
    if plan.flops_table1 is not None:
        meaning = f"{layers}, one image of view {plan.table1_view} encoded and decoded"
        rows.append(("flops_table1", f"{plan.flops_table1 / 1e9:,.4g} GFLOP", meaning))
    return rows


def _memory(plan: Plan) -> list[tuple[str, ...]]:
    memory = plan.memory
    rows = [
        ("weights", _gib(memory.weights)),
        ("gradients", _gib(memory.gradients)),
        ("optimiser state", _gib(memory.optimizer)),
        ("EMA copies", _gib(memory.ema)),
        ("frozen networks", _gib(memory.frozen)),
        ("gathered parameters", _gib(memory.gathered)),
        ("pixels", _gib(memory.data)),
        ("activations", f"{_gib(memory.activations)} of the largest group, attention by {plan.attention}"),
        ("total", _gib(memory.total)),
    ]
    return [row for row in rows if row[1] != _gib(0) or row[0] == "total"]


def _fits(plan: Plan) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [("run.microbatch_rows", "memory per rank", "TFLOP a step")]
    return rows + [
        (f"{fit.microbatch_rows or 'unset'}", _gib(fit.memory), _tera(fit.flops)) for fit in plan.fits
    ]


def _tera(count: float) -> str:
    tera = count / 1e12
    return f"{tera:.4g}" if tera < 1000 else f"{tera:,.0f}"


def _gib(count: float) -> str:
    return f"{count / GIB:.3g} GiB"
