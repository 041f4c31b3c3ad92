"""Names of classes by kind of label: of actions, or of EPIC-KITCHENS-100's verbs and nouns."""

from __future__ import annotations

from shared.manifest import ClassList

SINGULAR = {"label": "class", "verb": "verb", "noun": "noun"}
PLURAL = {"label": "classes", "verb": "verbs", "noun": "nouns"}


def class_name(classes: ClassList, number: int | None, kind: str = "label") -> str:
    """The name of a class, or its number where classes.json has none.

    Args:
        number: of the class; None where a clip has none.
        kind: of label ("label", "verb", "noun"): each is numbered by itself.
    """
    if number is None:
        return f"no {kind}"
    names = getattr(classes, kind)
    return names[number] if number < len(names) else f"{SINGULAR[kind]} {number}"


def class_names(classes: ClassList, kind: str, count: int) -> list[str]:
    """Names of the classes 0 to `count` - 1 of a kind of label."""
    return [class_name(classes, number, kind) for number in range(count)]
