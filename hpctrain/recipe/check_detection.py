"""What cannot work in the section ``detection`` (pure)."""

from __future__ import annotations

from collections.abc import Iterator

from hpctrain.detect.patterns import compiled, why_dangerous
from hpctrain.recipe.node import Path
from hpctrain.recipe.problem import Problem, shown
from hpctrain.recipe.schema import Recipe
from hpctrain.recipe.schema_detection import LogRule


def check_detection(recipe: Recipe) -> list[Problem]:
    """Every combination of this section's values that cannot work."""
    section = recipe.detection
    problems = [problem for index, rule in enumerate(section.log_rules) for problem in _rule(rule, index)]
    names = [rule.name for rule in section.log_rules]
    problems += [
        Problem(("detection", "log_rules", index, "name"), f"{shown(name)} is the name of an earlier rule")
        for index, name in enumerate(names) if name in names[:index]
    ]
    if recipe.method is not None and section.hang.output_limit is not None:
        problems.append(Problem(("detection", "hang", "output_limit"), (
            "has no effect with 'method': our trainer says in heartbeats what it does"), hint="use detection.hang.limits"))
    return problems


def _rule(rule: LogRule, index: int) -> Iterator[Problem]:
    place: Path = ("detection", "log_rules", index)
    for key in ("pattern", "stop_pattern"):
        pattern = getattr(rule, key)
        if pattern is None:
            continue
        try:
            if danger := why_dangerous(pattern):
                yield Problem((*place, key), f"may take for ever on some line: {danger}",
                              hint="bound the repeats, such as [0-9]{1,20}, or search for less of the line")
        except ValueError as error:
            yield Problem((*place, key), str(error))
    if (rule.metric_threshold is None) != (rule.operator is None):
        yield Problem(place, "metric_threshold and operator belong together; give both or none")
    if rule.metric_threshold is not None and not _groups(rule.pattern):
        yield Problem((*place, "pattern"), "needs a group around the number that is compared, such as loss=([0-9.]+)")
    wants = (rule.start_cutoff, rule.recurs_within, rule.metric_threshold)
    if not rule.fault_on_match and all(value is None for value in wants):
        yield Problem(place, (
            "asks for nothing: give start_cutoff, recurs_within, metric_threshold with operator, or fault_on_match"))
    if rule.fault_on_match and any(value is not None for value in wants):
        yield Problem((*place, "fault_on_match"), "a line that must not come cannot have a deadline or a threshold as well")
    if rule.metric_data_points > 1 and rule.metric_threshold is None:
        yield Problem((*place, "metric_data_points"), "has no effect without metric_threshold")
    if rule.stop_pattern is not None and rule.recurs_within is None and rule.start_cutoff is None:
        yield Problem((*place, "stop_pattern"), "has no effect without recurs_within or start_cutoff")
    if rule.action == "swap" and not rule.fault_on_match:
        yield Problem((*place, "action"), "only a line that names a node's fault (fault_on_match) can cost its node")


def _groups(pattern: str) -> int:
    try:
        return compiled(pattern).groups
    except ValueError:
        return 1  # told already
