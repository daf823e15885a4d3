"""Draw charts of results as PNG: accuracy per threat, clean against robust, accuracy against a radius or alpha.

matplotlib is used without pyplot. Models differ in marker and in colours that every common colour vision tells apart.
"""

from __future__ import annotations

import io
import statistics
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .conditions import fraction
from .table import Estimate, accuracies, estimate, main_columns

# Okabe and Ito's palette, told apart with every common colour vision, and lighter on a dark page; as in the page's CSS.
COLOURS = ("#d55e00", "#0072b2", "#009e73", "#b0578d", "#a87900", "#3a9bd0", "#5b6670")
DARK_COLOURS = ("#f4904f", "#5bb5ec", "#35c79a", "#e39bc4", "#edc04c", "#8fd0f5", "#aab4bd")
MARKERS = "osD^vPX"
SCALE = "accuracy, percent, with 95% intervals"  # over what, the table beside it says
NARROW = (4.4, 3.4)  # inches: the text of a wider chart is too small on a phone


@dataclass(frozen=True, kw_only=True)
class Series:
    """The results of one model under one setting: a single one, or one per seed, which are averaged.

    Args:
        name: name of the model.
        place: number of the model in the whole report, which gives it one colour in all charts.
        results: at least one result.
    """

    name: str
    place: int
    results: Sequence[Mapping[str, Any]]

    def has(self, name: str) -> bool:
        """Return whether every result holds a number of that name."""
        return all(result.get(name) is not None for result in self.results)


def robust_accuracy(series: Sequence[Series]) -> str | None:
    """Return the hardest accuracy that all results hold: multimodal, else the worst case, else None."""
    for name in ("multimodal_accuracy", "worst_case_accuracy"):
        if all(name in result for one in series for result in one.results):
            return name
    return None


def _draw(
    size: tuple[float, float],
    dark: bool,
    draw: Callable[[Any, Sequence[str], str], None],
    panels: int = 1,
    columns: int | None = None,
    shared_legend: bool = False,
) -> bytes:
    """Draw one chart, or several side by side, as PNG, with a legend on top if it has several entries."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    ink, page, line = ("#e6e9ec", "#171c21", "#3a434b") if dark else ("#1c1e21", "#ffffff", "#d9dde1")
    style: Any = {
        "font.family": "DejaVu Sans", "font.size": 9, "text.parse_math": False, "text.usetex": False,
        "text.color": ink, "axes.labelcolor": ink, "axes.edgecolor": line, "xtick.color": ink, "ytick.color": ink,
        "axes.facecolor": page, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
        "axes.axisbelow": True, "grid.color": line, "grid.linewidth": 0.6, "legend.frameon": False,
        "xtick.major.size": 0, "ytick.major.size": 0,
    }  # fmt: skip
    with rc_context(style):
        figure = Figure(figsize=size, dpi=220, facecolor=page, layout="constrained")
        axes: Any = figure.subplots(1, panels)
        draw(axes, DARK_COLOURS if dark else COLOURS, ink)
        handles: list[Any] = []
        names: list[str] = []
        for each in figure.axes:
            entries = each.get_legend_handles_labels()
            handles += entries[0]
            names += entries[1]
        if len(names) > 1:
            columns = columns or (2 if max(map(len, names)) < 24 and panels == 1 else 1)
            above = panels == 1 or shared_legend
            place: Any = "outside upper left" if above else "outside right upper"  # beside the panel that has it
            figure.legend(handles, names, loc=place, ncols=columns, handlelength=1.6)
        stream = io.BytesIO()
        FigureCanvasAgg(figure).print_png(stream)
        return stream.getvalue()


def accuracy_chart(series: Sequence[Series], dark: bool = False) -> bytes:
    """Draw bars per threat and model with their intervals, as PNG."""
    labels = main_columns(accuracies([result for one in series for result in one.results]))
    thickness = 0.8 / len(series)

    def draw(axes: Any, colours: Sequence[str], ink: str) -> None:
        for index, one in enumerate(series):
            names = [name for name in labels if one.has(name)]
            found = [estimate(one.results, name) for name in names]
            places = [list(labels).index(name) + (index - (len(series) - 1) / 2) * thickness for name in names]
            axes.barh(
                places,
                [100 * each.value for each in found],
                thickness * 0.92,
                color=colours[one.place % len(colours)],
                label=_chart_name(one, series),
                xerr=[
                    [100 * (each.value - each.low) for each in found],
                    [100 * (each.high - each.value) for each in found],
                ],
                error_kw={"ecolor": ink, "elinewidth": 0.9, "capsize": 1.8},
            )
            for place, each in zip(places, found, strict=True):
                axes.text(100 * each.high + 1.5, place, f"{100 * each.value:.1f}", va="center", size=8)
        axes.set_yticks(range(len(labels)), list(labels.values()))
        axes.set_ylim(len(labels) - 0.5, -0.5)
        axes.set_xlim(0, 112)
        axes.set_xticks(range(0, 101, 20))
        axes.set_xlabel(SCALE)
        axes.grid(axis="y", visible=False)

    return _draw((6.4, 1.15 + len(labels) * (0.12 + 0.17 * len(series))), dark, draw)


def tradeoff_chart(series: Sequence[Series], dark: bool = False) -> bytes:
    """Draw clean against robust accuracy, one point with both intervals per model, as PNG."""
    robust = robust_accuracy(series)
    labels = accuracies([result for one in series for result in one.results])

    def draw(axes: Any, colours: Sequence[str], ink: str) -> None:
        for one in series:
            x, y = estimate(one.results, "clean_accuracy"), estimate(one.results, str(robust))
            axes.errorbar(
                100 * x.value,
                100 * y.value,
                xerr=[[100 * (x.value - x.low)], [100 * (x.high - x.value)]],
                yerr=[[100 * (y.value - y.low)], [100 * (y.high - y.value)]],
                fmt=MARKERS[one.place % len(MARKERS)],
                markersize=8,
                color=colours[one.place % len(colours)],
                elinewidth=1.2,
                label=_chart_name(one, series),
            )
        _zoom_alike(axes)
        axes.set_xlabel("clean accuracy, percent")
        axes.set_ylabel(f"accuracy, percent\n{labels[str(robust)]}")

    return _draw(NARROW, dark, draw)


def dot_chart(points: Mapping[str, Mapping[str, Estimate]], labels: Mapping[str, str], dark: bool = False) -> bytes:
    """Draw a row per method, the best worst case on top, with a dot and its interval for each accuracy, as PNG.

    Args:
        points: for each method and accuracy, such as "text_unseen_accuracy", its estimate. The kind of an accuracy sets
            its colour and marker; further sources of substitutes have hollow markers.
        labels: for each accuracy that is shown its label in the legend, in the legend's order.
    """
    ranking = ("worst_case_accuracy", "multimodal_accuracy", "clean_accuracy")  # ties are broken by the next
    known = [name for name in ranking if all(name in found for found in points.values())]
    order = sorted(points, key=lambda method: [points[method][name].value for name in known], reverse=True)
    order.reverse()  # the axis goes up
    kinds = list(dict.fromkeys(_kind(name) for name in labels))
    apart = min(0.12, 0.72 / max(len(labels), 1))

    def draw(axes: Any, colours: Sequence[str], ink: str) -> None:
        for row in range(1, len(order), 2):
            axes.axhspan(row - 0.5, row + 0.5, color=ink, alpha=0.045, linewidth=0)
        for index, (name, label) in enumerate(labels.items()):
            kind = kinds.index(_kind(name))
            worst = name == "worst_case_accuracy"
            colour = ink if worst else colours[kind % len(colours)]
            further = name != f"{_kind(name)}_accuracy"
            shown = [(row, points[method][name]) for row, method in enumerate(order) if name in points[method]]
            axes.errorbar(
                [100 * each.value for _, each in shown],
                [row + ((len(labels) - 1) / 2 - index) * apart for row, _ in shown],
                xerr=[
                    [100 * (each.value - each.low) for _, each in shown],
                    [100 * (each.high - each.value) for _, each in shown],
                ],
                fmt="P" if worst else MARKERS[kind % len(MARKERS)],
                markersize=5,
                color=colour,
                markerfacecolor=axes.get_facecolor() if further else colour,
                elinewidth=1,
                label=label,
            )
        axes.set_yticks(range(len(order)), [textwrap.fill(method.replace(",", ", "), 30) for method in order])
        axes.set_ylim(-0.5, len(order) - 0.5)
        axes.set_xlim(-1.5, 101.5)
        axes.set_xticks(range(0, 101, 20))
        axes.set_xlabel(SCALE)
        axes.grid(axis="y", visible=False)

    return _draw((7.6, 1.25 + 0.42 * len(order)), dark, draw, columns=4)


def _kind(name: str) -> str:
    """Return "text" for "text_unseen_accuracy"."""
    kind = name.removesuffix("_accuracy")
    return next((known for known in ("text", "multimodal") if kind.startswith(f"{known}_")), kind)


def epsilon_chart(curves: Mapping[str, Sequence[tuple[float, Series]]], dark: bool = False) -> bytes:
    """Draw accuracy under image and multimodal attack against epsilon, starting from the clean accuracy, as PNG."""
    labels = accuracies([result for points in curves.values() for _, series in points for result in series.results])

    def draw(axes: Any, colours: Sequence[str], ink: str) -> None:
        for points in curves.values():
            place = points[0][1].place
            colour, marker = colours[place % len(colours)], MARKERS[place % len(MARKERS)]
            for accuracy, dashes in (("image_accuracy", "-"), ("multimodal_accuracy", "--")):
                if not all(series.has(accuracy) for _, series in points):
                    continue
                found = [(epsilon, estimate(series.results, accuracy)) for epsilon, series in points]
                if accuracy == "image_accuracy":  # at 0 images are not attacked, but prompts would be
                    found.insert(0, (0.0, estimate(points[0][1].results, "clean_accuracy")))
                axes.errorbar(
                    [epsilon for epsilon, _ in found],
                    [100 * each.value for _, each in found],
                    yerr=[
                        [100 * (each.value - each.low) for _, each in found],
                        [100 * (each.high - each.value) for _, each in found],
                    ],
                    linestyle=dashes,
                    marker=marker,
                    markersize=5,
                    markerfacecolor=colour if dashes == "-" else "none",
                    color=colour,
                    elinewidth=1,
                    capsize=2,
                    label=f"{_chart_name(points[0][1], [])}, {labels[accuracy]}",
                )
        radii = sorted({0.0, *(epsilon for curve in curves.values() for epsilon, _ in curve)})
        axes.set_xlim(-0.03 * radii[-1], 1.03 * radii[-1])  # whole markers
        axes.set_ylim(-3, 103)
        _name_radii(axes, radii)
        axes.set_xlabel("ε, of the range from black to white")
        axes.set_ylabel("accuracy, percent")

    return _draw(NARROW, dark, draw)


@dataclass(frozen=True, kw_only=True)
class RadiusCurve:
    """Accuracy of one model over the radius of the embedding attack, averaged over its results.

    Args:
        radius: radii in mean row norms of the token-embedding table.
        accuracy: accuracy at each radius.
        share: each radius as a share of the distance to the nearest other class word.
    """

    radius: Sequence[float]
    accuracy: Sequence[float]
    share: Sequence[float]


def radius_curve(series: Series) -> RadiusCurve | None:
    """Return the curve of a model, or None unless all of its results hold one at the same radii."""
    curves = [result.get("embedding_curve") for result in series.results]
    if any(not curve or curve["radius"] != (curves[0] or {}).get("radius") for curve in curves):
        return None
    accuracy, share = (
        [statistics.fmean(values) for values in zip(*(curve[key] for curve in curves if curve), strict=True)]
        for key in ("accuracy", "share_of_nearest_class")
    )
    return RadiusCurve(radius=curves[0]["radius"], accuracy=accuracy, share=share)  # type: ignore[index]  # not None


def radius_chart(series: Sequence[Series], dark: bool = False) -> bytes:
    """Draw accuracy over the radius of the embedding attack as PNG: beside it over the radius as a share of a distance.

    Training moves the class words apart, so one radius is another share of the way to the nearest class word for each
    model: the right panel compares models at equal shares.

    Args:
        series: models; those without a `radius_curve` are left out.
        dark: draw for a dark page.
    """
    rho = float(series[0].results[0]["attack_spec"]["rho"])

    def draw(axes: Any, colours: Sequence[str], ink: str) -> None:
        for panel, of in zip(axes, ("radius", "share"), strict=True):
            for one in series:
                if (curve := radius_curve(one)) is None:
                    continue
                panel.plot(
                    getattr(curve, of),
                    [100 * accuracy for accuracy in curve.accuracy],
                    color=colours[one.place % len(colours)],
                    marker=MARKERS[one.place % len(MARKERS)],
                    markersize=5,
                    label=_curve_name(one, series, curve, rho) if of == "radius" else None,
                )
            panel.margins(x=0.03)
            panel.set_ylim(-3, 103)
        radius, share = axes
        radius.set_xlabel("radius, in mean row norms")
        radius.set_ylabel("accuracy, percent")
        for panel, place, what in ((radius, rho, "the budget"), (share, 1.0, "nearest class word")):
            panel.axvline(place, color=ink, linewidth=0.8, linestyle=":")
            panel.annotate(
                what, (place, 1), xycoords=("data", "axes fraction"), xytext=(3, 3), textcoords="offset points", size=8
            )
        share.set_xlabel("radius, as a share of the distance\nto the nearest other class word")

    return _draw((2 * NARROW[0], NARROW[1] + 0.2), dark, draw, panels=2, columns=2, shared_legend=True)


def _curve_name(series: Series, others: Sequence[Series], curve: RadiusCurve, rho: float) -> str:
    share = rho * curve.share[-1] / curve.radius[-1] if curve.radius[-1] else 0.0
    return f"{_chart_name(series, others)} (budget: {100 * share:.0f}% of the distance)"


def interpolation_chart(series: Mapping[float, Series], dark: bool = False) -> bytes:
    """Draw mixtures of two models as PNG: clean against robust accuracy, and beside it every accuracy against alpha.

    Args:
        series: results of the mixtures by alpha, in rising order.
        dark: draw for a dark page.
    """
    every = list(series.values())
    labels = {
        name: label
        for name, label in main_columns(accuracies([result for one in every for result in one.results])).items()
        if all(one.has(name) for one in every)
    }
    robust = robust_accuracy(every)

    def draw(axes: Any, colours: Sequence[str], ink: str) -> None:
        tradeoff, curves = axes
        x, y = ([estimate(one.results, str(name)) for one in every] for name in ("clean_accuracy", robust))
        tradeoff.errorbar(
            [100 * each.value for each in x],
            [100 * each.value for each in y],
            xerr=_whiskers(x),
            yerr=_whiskers(y),
            color=colours[1],
            marker="o",
            markersize=5,
            linewidth=1.6,
            elinewidth=0.6,
        )
        for alpha, across, up in zip(series, x, y, strict=True):
            point = (100 * across.value, 100 * up.value)
            behind = {
                "facecolor": tradeoff.get_facecolor(),
                "edgecolor": "none",
                "pad": 0.6,
            }  # above the line
            tradeoff.annotate(
                f"{alpha:g}", point, xytext=(6, 5), textcoords="offset points", size=8, color=ink, bbox=behind
            )
        _zoom_alike(tradeoff)
        tradeoff.set_xlabel("clean accuracy, percent")
        tradeoff.set_ylabel(f"accuracy, percent\n{labels[str(robust)]}")
        tradeoff.set_title("the trade-off; points are labelled with alpha", size=9)

        kinds: list[str] = []
        for name, label in labels.items():
            kind = _kind(name)
            dashes = "--" if kind in kinds else "-"  # further substitutes of one kind of attack
            kinds = list(dict.fromkeys([*kinds, kind]))
            place = kinds.index(kind)
            found = [estimate(one.results, name) for one in every]
            curves.errorbar(
                list(series),
                [100 * each.value for each in found],
                yerr=_whiskers(found),
                linestyle=dashes,
                color=colours[place % len(colours)],
                marker=MARKERS[place % len(MARKERS)],
                markersize=4.5,
                markerfacecolor=colours[place % len(colours)] if dashes == "-" else "none",
                elinewidth=0.6,
                label=label,
            )
        curves.set_xticks(list(series), [f"{alpha:g}" for alpha in series])
        curves.set_ylim(-3, 103)
        curves.set_xlabel("alpha: 0 is pretrained, 1 is robust")
        curves.set_ylabel("accuracy, percent")

    return _draw((2.3 * NARROW[0], NARROW[1] + 0.3), dark, draw, panels=2)


def _zoom_alike(axes: Any) -> None:
    """Show the same range of percent on both axes, as narrow as the points and their intervals allow."""
    low, high = min(axes.get_xlim()[0], axes.get_ylim()[0]), max(axes.get_xlim()[1], axes.get_ylim()[1])
    limits = max(-3.0, low - 1), min(103.0, high + 1)
    axes.set_xlim(*limits)
    axes.set_ylim(*limits)
    axes.set_aspect("equal")
    axes.set_xticks([tick for tick in axes.get_yticks() if limits[0] <= tick <= limits[1]])
    axes.set_yticks(axes.get_xticks())


def _name_radii(axes: Any, radii: Sequence[float]) -> None:
    """Label the radii that were measured as people write them, 4/255 or 0.15; of close ones the larger."""
    shown: list[float] = []
    for radius in reversed(radii):
        if not shown or shown[-1] - radius >= 0.11 * radii[-1]:
            shown.append(radius)
    axes.set_xticks(shown, ["0" if radius == 0 else fraction(radius) for radius in shown])
    axes.set_xticks(radii, minor=True)


def _whiskers(found: Sequence[Estimate]) -> list[list[float]]:
    """Return the distances to both ends of the intervals, in percent, in the form that matplotlib expects."""
    return [[100 * (each.value - each.low) for each in found], [100 * (each.high - each.value) for each in found]]


def _chart_name(series: Series, others: Sequence[Series]) -> str:
    """Return a name short enough for a legend: the end of a path, unless another model's name ends alike."""
    tail = series.name.rstrip("/").rpartition("/")[2] or series.name
    alike = [one for one in others if one is not series and one.name.rstrip("/").endswith(tail)]
    name = series.name if alike else tail
    name = name if len(name) <= 34 else "…" + name[-33:]
    return f"{name} (mean of {len(series.results)})" if len(series.results) > 1 else name
