"""What an experiment with value guidance leaves behind: results.json, report.md and frontier.svg."""

from __future__ import annotations

from pathlib import Path

from trimtab.evaluation.guidance_report import draw, leads, scores, table, to_dict, write_json
from trimtab.evaluation.markdown import markdown_table
from trimtab.tasks.value_guidance import Guidance

WINNER = "IVG"


def write_guidance(found: Guidance) -> Path:
    """Write all measurements of an experiment into its folder.

    Args:
        found: the experiment.

    Returns:
        The report.
    """
    folder, names, judged = found.settings.output, found.main.judges, scores(found.main)
    ahead = {name: leads(each, WINNER) for name, each in judged.items()}
    base, first = found.main.base, judged[names[0]][found.main.base.name][: found.settings.sweeps.prompts]
    draw(
        found.sweeps,
        (base.proposed / len(base.answers), sum(first) / len(first)),
        names[0],
        folder / "frontier.svg",
    )
    content = {
        "settings": found.settings.model_dump(mode="json"),
        "measured": {name: dict(numbers) for name, numbers in found.measured.items()},
        "main": to_dict(found.main, judged),
        "leads": {name: {other: vars(each) for other, each in pairs.items()} for name, pairs in ahead.items()},
        "sweeps": {name: to_dict(each, scores(each)) for name, each in found.sweeps.items()},
    }
    write_json(folder / "results.json", content)
    lines = [f"# Integrated value guidance of {found.settings.base}", "", "Means with 95 % bootstrap intervals.", ""]
    lines += [table(found.main, judged)]
    others = [each.name for each in found.main.results if each.name != WINNER]
    lines += [f"{WINNER} ahead of, prompt by prompt:", ""]
    lines += [markdown_table(["", *names], ([other, *(str(ahead[name][other]) for name in names)] for other in others))]
    lines += ["Measured on held-out data while training:", ""]
    lines += [
        f"* {stage}: {', '.join(f'{name} {value:.3f}' for name, value in numbers.items())}"
        for stage, numbers in found.measured.items()
    ]
    report = folder / "report.md"
    report.write_text("\n".join(lines) + "\n\n![frontier](frontier.svg)\n", encoding="utf-8")
    return report
