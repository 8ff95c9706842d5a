"""The tables of ``benchmarks/recovery.py`` (pure)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from recovery_systems.timeline import Recovery, spread


def report(
    results: Mapping[str, Sequence[Recovery]], problems: Sequence[str], *, ranks: int, where: str, baseline: str
) -> str:
    """Everything as Markdown: times with their spread, phases, what got stuck and how."""
    lines = [f"{where}; {ranks} ranks with gloo.", ""]
    head = "| system | faults | first step after SIGKILL | 10 % to 90 % | all ranks again | steps redone | times faster |"
    lines += [head, "|---|---:|---:|---:|---:|---:|---:|"]
    base = spread([one.whole_s for one in results[baseline]])[0] if results.get(baseline) else None
    results = {name: found for name, found in results.items() if found}
    for name, found in results.items():
        median, low, high = spread([one.total_s for one in found])
        whole = spread([one.whole_s for one in found])[0]
        redone = spread([float(one.redone_steps) for one in found])[0]
        faster = f"{base / whole:.1f}" if base else ""
        lines.append(f"| {name} | {len(found)} | {median:.2f} s | {low:.2f} to {high:.2f} s | {whole:.2f} s | {redone:.0f} "
                     f"| {faster} |")
    lines += ["", f"Times faster: than {baseline}, until all ranks train again.", "", "| system | median of each phase |",
              "|---|---|"]
    for name, found in results.items():
        phases = {phase: spread([one.phases_s[phase] for one in found if phase in one.phases_s])[0]
                  for phase in dict.fromkeys(phase for one in found for phase in one.phases_s)}
        lines.append(f"| {name} | " + ", ".join(f"{phase} {value:.2f} s" for phase, value in phases.items()) + " |")
    lines += [f"\nStuck: {problem}" for problem in problems]
    return "\n".join(lines)
