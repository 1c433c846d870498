"""Calibration curves as one picture: what was predicted against what was true, a panel a witness."""

from statistics import NormalDist

Points = list[tuple[float, bool]]
SIZE, GAP, COLUMNS, BINS = 150, 46, 4, 6


def panels(curves: dict[str, Points]) -> str:
    """An SVG with the share of garbled recordings (with its 95% Wilson interval) over the predicted probability, and below it how
    many predictions there were: garbled ones to the right, dark; intelligible ones light."""
    rows = -(-len(curves) // COLUMNS)
    width, height = COLUMNS * (SIZE + GAP) + GAP, rows * (SIZE + GAP + 52) + 40
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="10">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    for number, (title, points) in enumerate(curves.items()):
        x, y = GAP + (number % COLUMNS) * (SIZE + GAP), 30 + (number // COLUMNS) * (SIZE + GAP + 52)
        parts.append(_panel(title, points, x, y))
    return "\n".join([*parts, "</svg>\n"])


def _panel(title: str, points: Points, x: float, y: float) -> str:
    out = [
        f'<text x="{x}" y="{y - 8}" font-weight="bold">{title} ({len(points)})</text>',
        f'<rect x="{x}" y="{y}" width="{SIZE}" height="{SIZE}" fill="none" stroke="#999"/>',
        f'<line x1="{x}" y1="{y + SIZE}" x2="{x + SIZE}" y2="{y}" stroke="#bbb" stroke-dasharray="3"/>',
        f'<text x="{x - 6}" y="{y + 8}" text-anchor="end">1</text><text x="{x - 6}" y="{y + SIZE}" text-anchor="end">0</text>',
        f'<text x="{x + SIZE / 2}" y="{y + SIZE + 48}" text-anchor="middle">predicted probability of garbled</text>',
    ]
    last = None
    for b in range(BINS):
        inside = [(p, true) for p, true in points if b / BINS <= p < (b + 1) / BINS or (b == BINS - 1 and p == 1)]
        if not inside:
            continue
        share, centre = sum(true for _, true in inside) / len(inside), sum(p for p, _ in inside) / len(inside)
        low, high = _wilson(share, len(inside))
        px, py = x + SIZE * centre, y + SIZE * (1 - share)
        top, bottom = y + SIZE * (1 - high), y + SIZE * (1 - low)
        out.append(f'<line x1="{px:.1f}" x2="{px:.1f}" y1="{bottom:.1f}" y2="{top:.1f}" stroke="#357"/>')
        if last:
            out.append(f'<line x1="{last[0]:.1f}" y1="{last[1]:.1f}" x2="{px:.1f}" y2="{py:.1f}" stroke="#357"/>')
        out.append(f'<circle cx="{px:.1f}" cy="{py:.1f}" r="3" fill="#357"/>')
        last = px, py
        for true, colour, side in ((False, "#9bd", 0), (True, "#357", 1)):
            count = sum(t == true for _, t in inside)
            tall = 30 * count / max(1, len(points))
            wide, low = (SIZE / BINS - 4) / 2, y + SIZE + 36
            left = x + SIZE * b / BINS + 2 + side * wide
            out.append(f'<rect x="{left:.1f}" y="{low - tall:.1f}" width="{wide:.1f}" height="{tall:.1f}" fill="{colour}"/>')
    return "\n".join(out)


def _wilson(share: float, count: int) -> tuple[float, float]:
    z = NormalDist().inv_cdf(0.975)
    centre, scale = share + z * z / (2 * count), 1 + z * z / count
    spread = z * (share * (1 - share) / count + z * z / (4 * count * count)) ** 0.5
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)
