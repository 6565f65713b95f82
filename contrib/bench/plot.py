"""The cost of a lookup over the number of clients, as an SVG file."""

from __future__ import annotations

from math import log10

from .results import Results
from .scenes import CLIENTS, clients_scene

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 760, 420, 60, 190, 50, 50
COLOURS = {"pfxhttpd": "#0b6e4f", "baseline": "#3d6fb4", "naive": "#b23a48", "naive, no env": "#d98a3a"}
STEPS = 5
LINE_HEIGHT = 14


def cost_over_clients(results: Results) -> str:
    """The text of the file. A server that was not measured is left out."""
    lines = {server: points(results, server) for server in COLOURS}
    lines = {server: line for server, line in lines.items() if line}
    top = round_up(max((cost for line in lines.values() for _, cost in line), default=1.0))
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{LEFT}" y="24" font-size="14">Processor time per lookup, in microseconds, over busy clients</text>',
    ]
    for step in range(STEPS + 1):
        cost = top * step / STEPS
        height = y(cost, top)
        out.append(f'<path d="M{LEFT} {height:.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>')
        out.append(f'<text x="{LEFT - 8}" y="{height + 4:.1f}" text-anchor="end">{cost:g}</text>')
    for clients in CLIENTS:
        out.append(f'<text x="{x(clients):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{clients:,}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    out.append(f'<text x="{middle:.1f}" y="{HEIGHT - 10}" text-anchor="middle">clients, 4 workers</text>')
    labels = label_heights({server: y(line[-1][1], top) for server, line in lines.items()})
    for server, line in lines.items():
        colour = COLOURS[server]
        path = " ".join(f"{x(clients):.1f},{y(cost, top):.1f}" for clients, cost in line)
        out.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        out += [f'<circle cx="{x(n):.1f}" cy="{y(cost, top):.1f}" r="3" fill="{colour}"/>' for n, cost in line]
        clients, cost = line[-1]
        out.append(
            f'<text x="{x(clients) + 8:.1f}" y="{labels[server] + 4:.1f}" fill="{colour}">{server}: {cost:.0f} µs</text>'
        )
    return "\n".join([*out, "</svg>", ""])


def points(results: Results, server: str) -> list[tuple[int, float]]:
    """The numbers of clients with the median costs."""
    found = []
    for clients in CLIENTS:
        cost = results.median((clients_scene(clients), server), "cost")
        if cost is not None:
            found.append((clients, cost))
    return found


def x(clients: float) -> float:
    """The horizontal place of a number of clients, on a logarithmic scale."""
    return LEFT + (WIDTH - LEFT - RIGHT) * log10(clients) / log10(CLIENTS[-1])


def y(cost: float, top: float) -> float:
    """The vertical place of a cost, on a scale that ends at `top`."""
    return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * cost / top


def label_heights(wanted: dict[str, float]) -> dict[str, float]:
    """The labels' vertical places, moved so that none lies on another."""
    placed: dict[str, float] = {}
    last = float("-inf")
    for server, height in sorted(wanted.items(), key=lambda item: item[1]):
        last = placed[server] = max(height, last + LINE_HEIGHT)
    return placed


def round_up(value: float) -> float:
    """A round number not below `value`, for the end of the scale."""
    step = 1.0
    while step * 10 < value:
        step *= 10
    return next(step * factor for factor in (1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10) if step * factor >= value)
