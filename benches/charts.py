"""Draws lines over seconds as SVG, for docs/."""
import pathlib

ROOT = pathlib.Path(__file__).resolve().parent.parent
WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 760, 340, 56, 24, 120, 44


def draw(name, title, rows, lines, what):
    """Draws docs/NAME.svg: of each row its `second`, and the members that `lines` names with their colours."""
    seconds = max(row["second"] for row in rows)
    most = max(row[line] for row in rows for line, _ in lines)
    inner_width, inner_height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def x(second):
        return LEFT + inner_width * second / seconds

    def y(count):
        return TOP + inner_height * (1 - count / most)

    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">',
        f"<title>{title}</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
    ]
    for step in range(6):
        count = most * step / 5
        out.append(f'<path d="M{LEFT} {y(count):.1f}H{WIDTH - RIGHT}" stroke="#e8eaed"/>')
        out.append(f'<text x="{LEFT - 8}" y="{y(count) + 4:.1f}" text-anchor="end">{count:.0f}</text>')
    tick = next(tick for tick in (1, 5, 30, 60, 600) if seconds / tick <= 12 or tick == 600)
    for second in range(0, int(seconds) + 1, tick):
        out.append(f'<text x="{x(second):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{second}</text>')
    out.append(f'<text x="{LEFT + inner_width / 2:.0f}" y="{HEIGHT - 8}" text-anchor="middle">seconds</text>')
    out.append(f'<text x="{LEFT}" y="{TOP - 8}" text-anchor="middle">{what}</text>')
    labels = []
    for line, colour in lines:
        points = " ".join(f'{x(row["second"]):.1f},{y(row[line]):.1f}' for row in rows)
        out.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        labels.append([y(rows[-1][line]), line, colour])
    labels.sort()
    for above, label in zip([[TOP - 16]] + labels, labels):
        label[0] = max(label[0], above[0] + 16)
    for at, line, colour in labels:
        out.append(f'<text x="{WIDTH - RIGHT + 8}" y="{at + 4:.1f}" fill="{colour}">{line}</text>')
    out.append("</svg>")
    (ROOT / f"docs/{name}.svg").write_text("\n".join(out) + "\n", encoding="utf-8")
