"""The rate over the number of clients, as an SVG file written by hand."""

from __future__ import annotations

from math import log2
from statistics import median

from scenes import Sample

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 720, 420, 70, 150, 40, 50
CLIENTS = (1, 4, 64)
LINES = (
    ("pfxhttpd", "map", "#0b6e4f"), ("pfxhttpd", "policy", "#5fb49c"),
    ("naive", "map", "#b23a48"), ("naive", "policy", "#e09f9f"),
)  # fmt: skip


def rate_over_clients(samples: list[Sample]) -> str:
    """The whole file. Lines whose scenes were not played are left out."""
    lines = []
    for server, kind, colour in LINES:
        points = []
        for clients in CLIENTS:
            scene = f"{kind}, {clients} client{'s' * (clients > 1)}"
            rates = [s.figures["rate"] for s in samples if (s.server, s.scene) == (server, scene)]
            if rates:
                points.append((clients, median(rates)))
        if points:
            lines.append((f"{server}, {kind}", colour, points))
    top = nice(max((rate for _, _, points in lines for _, rate in points), default=1))

    def x(clients: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * log2(clients) / log2(CLIENTS[-1])

    def y(rate: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * rate / top

    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{LEFT}" y="20" font-size="14">Answers per second over busy clients, 4 workers</text>',
    ]
    for step in range(6):
        rate = top * step / 5
        out.append(f'<path d="M{LEFT} {y(rate):.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>')
        out.append(f'<text x="{LEFT - 8}" y="{y(rate) + 4:.1f}" text-anchor="end">{rate:.0f}</text>')
    for clients in CLIENTS:
        out.append(f'<text x="{x(clients):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{clients}</text>')
    out.append(f'<text x="{x(8):.1f}" y="{HEIGHT - 10}" text-anchor="middle">clients (each a scale step of 2)</text>')
    for name, colour, points in lines:
        path = " ".join(f"{x(clients):.1f},{y(rate):.1f}" for clients, rate in points)
        out.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        out += [f'<circle cx="{x(c):.1f}" cy="{y(r):.1f}" r="3" fill="{colour}"/>' for c, r in points]
        clients, rate = points[-1]
        out.append(f'<text x="{x(clients) + 8:.1f}" y="{y(rate) + 4:.1f}" fill="{colour}">{name} {rate:.0f}</text>')
    return "\n".join([*out, "</svg>", ""])


def nice(value: float) -> float:
    """A round number not below `value`, for the top of the scale."""
    step = 1.0
    while step * 10 < value:
        step *= 10
    return next(step * factor for factor in (1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10) if step * factor >= value)
