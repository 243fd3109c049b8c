"""What each adaptation is called and how it looks: one label, mark, colour and line in every figure
and every study.

Colours are those of Okabe and Ito (Color Universal Design, 2008), which colour-blind readers can
tell apart. In grey, the marker tells adaptations apart: filled for a reconstruction, open for a
retraining, half filled for a variant of either.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from freelunch.study import methods
from freelunch.study.cell import NONE
from freelunch.study.comparisons import AMOUNTS, MEMORY
from freelunch.study.windows import ALL, AUTO, HALVES, LEAST_SQUARES, MATRIX, Window

# The settings of an adaptation, and the registry `adaptations` of a config, as JSON has them.
Settings = Mapping[str, Any]
Registered = Mapping[str, Settings]

INK = "#000000"
QUIET = "#595959"
PALE = "#B0B0B0"
WHITE = "#FFFFFF"
DENSE_COLOUR = QUIET
# Okabe and Ito's yellow is left out: it is hard to see on white.
_BLUE, _VERMILION, _GREEN = "#0072B2", "#D55E00", "#009E73"
_PINK, _ORANGE, _SKY = "#CC79A7", "#E69F00", "#56B4E9"
# The label, colour and marker of each kind of adaptation. No two kinds have the same colour and
# marker, and no two retrainings the same marker.
_RETRAINING = {
    methods.FULL: ("all weights", _GREEN, "o"),
    methods.MASKLORA: ("MaskLoRA", _PINK, "D"),
    methods.BIASES: ("biases", _ORANGE, "<"),
    methods.NORMS: ("norms", _ORANGE, ">"),
    methods.BIASES_NORMS: ("biases and norms", _ORANGE, "v"),
    methods.LORA: ("LoRA", _SKY, "^"),
    methods.LORA_PRUNE: ("LoRA-Prune", _SKY, "s"),
    methods.SCALELORA: ("ScaleLoRA", _VERMILION, "P"),
    methods.SPP: ("SPP", _VERMILION, "X"),
}
_WINDOWS = {
    MATRIX: ("single matrices", _VERMILION, "^"),
    HALVES: ("half blocks", _ORANGE, "d"),
    1: ("one block", _BLUE, "s"),
    ALL: ("whole model", _PINK, "p"),
    AUTO: ("as memory allows", _SKY, "h"),
}
# The half of a variant's marker that is filled, and its line. Each four variants have an outline
# and another half of their own.
_HALVES = ("left", "right", "bottom", "top")
_FOURS = ((False, WHITE), (True, WHITE), (False, PALE), (True, PALE))
_LINES = ("-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 3)))
# The looks of criteria, in the order of a figure.
_CRITERIA = (
    *((_VERMILION, "v"), (_BLUE, "s"), (_GREEN, "o"), (_PINK, "D")),
    *((_ORANGE, "^"), (_SKY, "P"), (INK, "X"), (QUIET, "*")),
)
# Settings in words, where name and value do not say what they mean.
_VALUES = {
    ("loss", "distillation"): "distilled",
    ("loss", "relative_squared_error"): "relative loss",
    ("inputs", "sparse"): "sequential inputs",
    ("targets", "behind_sparse"): "sequential targets",
    ("lost_residual", "True"): "no residual",
    ("model_dropout", "True"): "dropout active",
    ("train_norms", "True"): "with norms",
    ("train_norms", "False"): "without norms",
}
_FORMS = {
    "inputs": "{} inputs",
    "targets": "{} targets",
    "memory_gb": "in {:g} GB",
    "precision": "{}",
}


@dataclass(frozen=True)
class Kind:
    """What an adaptation is: its method, and the window of a reconstruction; None for a retraining,
    which trains the whole model on the text itself.
    """

    method: str
    window: Window | None

    @classmethod
    def of(cls, settings: Settings) -> "Kind":
        method = settings["method"]
        return cls(method, None if method in _RETRAINING else settings.get("window", MATRIX))

    @property
    def label(self) -> str:
        if self.window is None:
            return f"retraining: {_RETRAINING[self.method][0]}"
        exact = ", exact" if self.method == LEAST_SQUARES else ""
        return f"reconstruction: {window_label(self.window)}{exact}"

    @property
    def look(self) -> tuple[str, str]:
        """Return its colour and its marker."""
        if self.window is None:
            return _RETRAINING[self.method][1:]
        if self.method == LEAST_SQUARES:
            return _VERMILION, ">"
        if self.window in _WINDOWS:
            return _WINDOWS[self.window][1:]
        if int(self.window) < 5:
            return _SKY, "P"
        return _GREEN, "X" if int(self.window) < 10 else "*"


@dataclass(frozen=True)
class Mark:
    """How an adaptation looks.

    Attributes:
        label: The adaptation in words.
        series: The same without its amount of text.
        colour: Colour of line, marker and error bar.
        marker: Marker, as matplotlib names it.
        fill: The part of the marker that is filled, as matplotlib names it; "none" for none.
        line: Line style, as matplotlib names it.
        inked: Whether the marker's outline is black, rather than of its colour.
        rest: Colour of the part of the marker that is not filled.
    """

    label: str
    series: str
    colour: str
    marker: str
    fill: str
    line: Any
    inked: bool = False
    rest: str = WHITE

    @property
    def points(self) -> dict[str, Any]:
        """Return the look of its markers, as arguments of matplotlib's `plot` and `errorbar`."""
        return {
            "marker": self.marker,
            "color": self.colour,
            "fillstyle": "full" if self.fill == "none" else self.fill,
            "markerfacecolor": self.rest if self.fill == "none" else self.colour,
            "markerfacecoloralt": self.rest,
            "markeredgecolor": INK if self.inked else self.colour,
        }


# The mark of an effect that is about several adaptations.
NEUTRAL = Mark("several adaptations", "several adaptations", INK, "|", "full", "-")


def criteria_marks(names: Sequence[str]) -> dict[str, Mark]:
    """Return the mark of each criterion of a panel; from the ninth on, looks begin again."""
    return {
        name: Mark(name, name, *_CRITERIA[at % len(_CRITERIA)], "full", "-")
        for at, name in enumerate(dict.fromkeys(names))
    }


def marks(adaptations: Registered) -> Mapping[str, Mark]:
    """Return the mark of each adaptation, and of `none`.

    Adaptations that differ only in how much text they see, and in the settings chosen for that
    amount, share their mark. To look the same in every figure, an adaptation needs all adaptations
    of the config in its order, not only those that a figure shows.
    """
    labels = adaptation_labels(adaptations)
    by_name = {NONE: Mark(labels[NONE], labels[NONE], INK, "x", "full", "-")}
    variants: dict[Kind, list[Settings]] = {}
    for name, settings in adaptations.items():
        kind, own = Kind.of(settings), _amounts(settings)
        rest = {key: settings[key] for key in settings if key not in (*AMOUNTS, *MEMORY)}
        of_kind = variants.setdefault(kind, [])
        if rest not in of_kind:
            of_kind.append(rest)
        series = ", ".join(word for word in labels[name].split(", ") if word not in own)
        words = labels[name], series, *kind.look
        if variant := of_kind.index(rest):
            # 16 variants come before one looks like another.
            four, half = divmod(variant - 1, len(_HALVES))
            line = _LINES[(four + half) % len(_LINES)]
            by_name[name] = Mark(*words, _HALVES[half], line, *_FOURS[four % len(_FOURS)])
        else:
            by_name[name] = Mark(
                *words, *(("none", "--") if kind.window is None else ("full", "-"))
            )
    return by_name


def window_label(window: Window | None) -> str:
    return _WINDOWS[window][0] if window in _WINDOWS else f"{window} blocks"


def adaptation_labels(adaptations: Registered) -> dict[str, str]:
    """Return each adaptation in words, and `none`: its kind, and what sets it apart.

    Args:
        adaptations: All adaptations of the config. The first of each kind is named by its kind, and
            the others also by how they differ from it; all are named by their amounts of text,
            unless these are alike. If two would have the same label, that of the second also has
            its name in the config.
    """
    firsts, labels = first_of_kinds(adaptations), {NONE: "pruned"}
    amounts: dict[Kind, list[list[str]]] = {}
    for settings in adaptations.values():
        amounts.setdefault(Kind.of(settings), []).append(_amounts(settings))
    for name in sorted(adaptations, key=lambda name: name not in firsts.values()):
        kind, own = Kind.of(adaptations[name]), _amounts(adaptations[name])
        words = [kind.label, *_differences(adaptations[name], adaptations[firsts[kind]])]
        if any(others != own for others in amounts[kind]):
            words += own
        label = ", ".join(words)
        labels[name] = f"{label} ({name})" if label in labels.values() else label
    return {name: labels[name] for name in (NONE, *adaptations)}


def first_of_kinds(adaptations: Registered) -> dict[Kind, str]:
    """Return the name of the first adaptation of each kind; one without an amount of text of its
    own comes before the others.
    """
    firsts: dict[Kind, str] = {}
    for name in sorted(adaptations, key=lambda name: bool(_amounts(adaptations[name]))):
        firsts.setdefault(Kind.of(adaptations[name]), name)
    return firsts


def _differences(settings: Settings, first: Settings) -> list[str]:
    """Return in words how an adaptation differs from the first one of its kind. Amounts of text,
    learning rates (chosen for each variant) and memory (changes no result) do not count.
    """
    words = []
    for key, value in settings.items():
        if key not in (*AMOUNTS, *MEMORY) and value != first.get(key):
            form = _FORMS.get(key, f"{key.replace('_', ' ')} {{}}")
            words.append(_VALUES.get((key, str(value)), form.format(value)))
    return words


def _amounts(settings: Settings) -> list[str]:
    words = []
    if budget := settings.get("budget"):
        if tokens := budget.get("tokens"):
            words.append(f"{tokens:,} tokens")
        else:
            words.append(f"{budget['times']:g} \N{MULTIPLICATION SIGN} tokens")
    if samples := settings.get("samples"):
        words.append(f"{samples} sequences")
    if isinstance(epochs := settings.get("epochs", 1), int) and epochs > 1:
        words.append(f"{epochs} epochs")
    return words
