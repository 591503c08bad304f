"""Each figure can be drawn, and names its models and scores."""

import io

import numpy as np
from matplotlib.figure import Figure

from ontime.evaluation import plots
from ontime.models.trainer import EpochRecord
from tests.unit.evaluation.test_metrics import calibrated


def texts(figure: Figure) -> str:
    """The legend and title texts of a figure, which must be drawable."""
    figure.savefig(io.BytesIO())
    legends = [axes.get_legend() for axes in figure.axes]
    labels = [text.get_text() for legend in legends if legend for text in legend.get_texts()]
    return " ".join(labels + [axes.get_title() for axes in figure.axes])


def test_figures_name_their_models_and_scores() -> None:
    y, p = calibrated(2000)
    models = {"network": p, "base_rate": np.full(2000, y.mean())}
    assert "network (ECE 0.0" in texts(plots.calibration(y, models))
    assert "base_rate 0.500" in texts(plots.roc_and_precision_recall(y, models))
    assert "0.4000" in texts(plots.learning_curve([EpochRecord(1, 0.5, 9), EpochRecord(2, 0.4, 9)]))
